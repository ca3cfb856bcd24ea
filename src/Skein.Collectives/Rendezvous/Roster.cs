using System.Text;

namespace Skein.Collectives.Rendezvous;

/// <summary>
/// Who has joined a job: each rank enters its address in the job's store and waits for those of the others. A launcher
/// that knows better enters for a rank that it will never come.
/// </summary>
public static class Roster
{
    private const string Gone = "gone:";

    /// <summary>Lets those who wait for <paramref name="rank"/> end at once, unless it has joined.</summary>
    /// <param name="store">The job's store.</param>
    /// <param name="jobId">The job's name.</param>
    /// <param name="rank">The rank that ended.</param>
    /// <param name="reason">How it ended, to follow its name in a sentence.</param>
    public static Task ReportGoneAsync(Store store, string jobId, int rank, string reason)
    {
        ArgumentNullException.ThrowIfNull(store);
        return store.CompareAndSetAsync(Key(jobId, 0, rank), null, Encoding.UTF8.GetBytes(Gone + reason));
    }

    /// <summary>Whether <paramref name="rank"/> has joined the job.</summary>
    public static async Task<bool> HasJoinedAsync(Store store, string jobId, int rank)
    {
        ArgumentNullException.ThrowIfNull(store);
        try
        {
            byte[] entry = await store.GetAsync(Key(jobId, 0, rank), TimeSpan.Zero).ConfigureAwait(false);
            return ReasonIfGone(entry) is null;
        }
        catch (CollectiveTimeoutException)
        {
            return false;
        }
    }

    /// <summary>What sets one membership's keys apart: a process may join the same job several times, one after the other.</summary>
    internal static string Membership(string jobId, int number) => $"{jobId}/{number}";

    internal static string Key(string membership, int rank) => $"{membership}/rank/{rank}";

    /// <exception cref="PeerLostException">The rank will not come.</exception>
    internal static RankAddress Read(byte[] entry, int rank) => ReasonIfGone(entry) is { } reason
        ? throw new PeerLostException($"rank {rank} {reason} before it joined the job")
        : RankAddress.Decode(entry);

    private static string Key(string jobId, int number, int rank) => Key(Membership(jobId, number), rank);

    private static string? ReasonIfGone(byte[] entry)
    {
        string text = Encoding.UTF8.GetString(entry);
        return text.StartsWith(Gone, StringComparison.Ordinal) ? text[Gone.Length..] : null;
    }
}
