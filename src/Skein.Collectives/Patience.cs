using System.Diagnostics;
using System.Globalization;
using Skein.Collectives.Rendezvous;

namespace Skein.Collectives;

/// <summary>
/// How a rank waits inside a call: it spins briefly (a peer that runs on a core of its own answers within
/// microseconds), yields, and then blocks in slices, in which it looks out for failures. A wait without progress ends
/// with the job's timeout. One instance serves one thread at a time.
/// </summary>
/// <param name="job">The job.</param>
/// <param name="group">The group's number on the wire.</param>
/// <param name="groupName">The group's name, for errors.</param>
/// <param name="members">The group's ranks in the job.</param>
internal sealed class Patience(Job job, uint group, string groupName, int[] members)
{
    /// <summary>How long one slice of blocking lasts, so how late a failure elsewhere can be noticed.</summary>
    private const int SliceMilliseconds = 20;

    private static readonly long DesyncTicks = Stopwatch.Frequency;

    // What a rank sent before it left can still be behind a connection that this process has not accepted yet.
    private static readonly long LeaverGraceTicks = 2 * Stopwatch.Frequency;

    private long started;
    private long leftSince;
    private int yields;
    private bool reported;

    /// <summary>The call that is going on, for the comparison between ranks; null outside collectives.</summary>
    public CallSignature? Call { get; set; }

    /// <summary>What is being waited in, for messages, where that is no collective.</summary>
    public string Activity { get; set; } = "";

    /// <summary>How long to spin before yielding and blocking; 0 where ranks share cores.</summary>
    public long SpinTicks { get; set; }

    /// <summary>How often to give the core away before blocking.</summary>
    public int Yields { get; set; }

    /// <summary>Forgets the time waited so far: something moved.</summary>
    public void Progressed()
    {
        started = 0;
        leftSince = 0;
        yields = 0;
        reported = false;
    }

    /// <summary>To be called when nothing moved: returns 0 to try again at once, or the milliseconds to block for.</summary>
    /// <param name="peer">The rank in the group that is waited for, or -1 for any.</param>
    /// <exception cref="SkeinException">The job failed, the peer is gone, or the timeout passed.</exception>
    public int Idle(int peer)
    {
        long now = Stopwatch.GetTimestamp();
        if (started == 0)
        {
            started = now;
            return 0;
        }

        long waited = now - started;
        if (waited < SpinTicks)
        {
            Thread.SpinWait(4);
            return 0;
        }

        if (yields < Yields)
        {
            yields++;
            Thread.Yield();
            return 0;
        }

        Check(peer, now, waited);
        return SliceMilliseconds;
    }

    private void Check(int peer, long now, long waited)
    {
        job.ThrowIfFailed();
        if (peer >= 0 && job.StateOf(members[peer]) == PeerState.Left)
        {
            // Its last bytes may still be on the way, so that only a wait that goes on is a loss.
            if (leftSince == 0) leftSince = now;
            if (now - leftSince > LeaverGraceTicks)
            {
                throw new PeerLostException(
                    $"rank {members[peer]} left the job while rank {job.Rank} waited for it in {Describe()}; "
                    + "all ranks have to make the same calls");
            }
        }

        if (waited > DesyncTicks && !reported && Call is { } signature)
        {
            reported = true;
            job.ReportWaiting(group, signature);
        }

        if (waited > job.TimeoutTicks)
        {
            string whom = peer < 0 ? "any rank" : string.Create(CultureInfo.InvariantCulture, $"rank {members[peer]}");
            throw new CollectiveTimeoutException(string.Create(
                CultureInfo.InvariantCulture,
                $"rank {job.Rank} waited {waited / (double)Stopwatch.Frequency:F0} s for {whom} in {Describe()}; see that rank's log, or raise SKEIN_TIMEOUT_SECONDS"));
        }
    }

    // Where a job has several groups, the same call may be one of any.
    private string Describe()
    {
        string what = Call?.ToString() ?? Activity;
        return groupName == ProcessGroup.WorldName ? what : $"{what} of group {groupName} (ranks {string.Join(", ", members)})";
    }
}
