using System.Diagnostics;
using System.Threading.Channels;
using Microsoft.Extensions.Logging;

namespace Skein.ParameterServer.Control;

/// <summary>
/// What the coordinator knows, and who has to be told: the members and, in the other part, what workers wait for.
/// Thread-safe.
/// </summary>
internal sealed partial class CoordinatorState(CoordinatorOptions options)
{
    private readonly Lock gate = new();
    private readonly long started = Stopwatch.GetTimestamp();
    private readonly Membership membership = new(options);
    private readonly Dictionary<Member, Channel<JobView>> audience = [];
    private readonly TaskCompletionSource<string?> ended = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private JobView? published;

    /// <summary>Completes when the job has finished (null) or failed (why).</summary>
    public Task<string?> Ended => ended.Task;

    private TimeSpan Now => Stopwatch.GetElapsedTime(started);

    /// <summary>Gives a process its place in the job.</summary>
    /// <returns>
    /// The member, and the latest view of the job each time that it changes: they end when the member has left, and in
    /// a <see cref="ParameterServerException"/> when it is taken for lost.
    /// </returns>
    /// <exception cref="ParameterServerException">The process has no place; says why.</exception>
    public (Member Member, ChannelReader<JobView> Views) Register(Registration registration)
    {
        lock (gate)
        {
            Member member = membership.Register(registration, Now);

            // A view replaces those before it, so that a slow reader costs no memory.
            var views = Channel.CreateBounded<JobView>(new BoundedChannelOptions(1) { FullMode = BoundedChannelFullMode.DropOldest });
            audience.Add(member, views);
            Publish();
            return (member, views.Reader);
        }
    }

    /// <summary>Checks that a call in the name of a worker is its own.</summary>
    /// <exception cref="ParameterServerException">It is not.</exception>
    public void Identify(int worker, Guid token)
    {
        lock (gate)
        {
            if (membership.View.WorkerTokens.TryGetValue(worker, out Guid own) && own == token) return;
        }

        throw new ParameterServerException($"a call in the name of worker {worker} did not come from it");
    }

    /// <summary>A member said that it lives.</summary>
    public void Hear(Member member)
    {
        lock (gate) member.LastHeard = Now;
    }

    /// <summary>A member finished well.</summary>
    public void Leave(Member member) => Change(() => membership.Leave(member));

    /// <summary>A member cannot go on, so the job fails.</summary>
    public void Fail(Member member, string message) => Change(() => membership.Fail(member, message));

    /// <summary>The job cannot go on.</summary>
    public void Fail(string message) => Change(() => membership.Fail(message));

    /// <summary>A member is gone without having left.</summary>
    public void Lose(Member member, string reason) => Change(() => membership.Lose(member, reason));

    /// <summary>A process that was started for the job is gone.</summary>
    public void Depart(Departure departure) => Change(() => membership.Depart(departure));

    /// <summary>Looks who has been silent or missing for too long.</summary>
    public void Tick() => Change(() => membership.Tick(Now));

    /// <summary>Ends every member's views, after the latest one.</summary>
    public void Close()
    {
        lock (gate)
        {
            foreach (Channel<JobView> views in audience.Values) views.Writer.TryComplete();
        }
    }

    private void Change(Action change)
    {
        lock (gate)
        {
            change();
            Publish();
        }
    }

    private void Publish()
    {
        JobView view = membership.View;
        bool isNew = !ReferenceEquals(view, published);
        published = view;
        foreach ((Member member, Channel<JobView> views) in audience.ToArray())
        {
            if (isNew) views.Writer.TryWrite(view);
            if (member.State == MemberState.Alive) continue;
            views.Writer.TryComplete(
                member.State == MemberState.Lost ? new ParameterServerException($"{member} was taken for lost: {member.LossReason}") : null);
            audience.Remove(member);
            if (member.State == MemberState.Lost && !view.HasEnded)
            {
                // Any other loss is the job's failure, or follows from its end.
                options.Logger?.LogWarning("{Member} was lost: {Reason}", member, member.LossReason);
            }

            if (member.Registration is WorkerRegistration) ReleaseWork(member.Id);
        }

        if (view.HasEnded) ended.TrySetResult(view.Failure);
        if (!isNew) return;
        UpdateSums();
        WakeWaiters();
    }
}
