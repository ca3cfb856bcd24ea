using System.Security.Cryptography;
using System.Text;

namespace Skein.Collectives.Rendezvous;

/// <summary>
/// How the ranks of one job agree on a name that no earlier job has used, in a store that outlives jobs and where ids
/// are used again. Each rank posts a number of its own, and takes only an answer to that very number; rank 0 answers all,
/// and looks again, since what it finds first may be left from another job.
/// </summary>
internal static class Meeting
{
    private static readonly TimeSpan Period = TimeSpan.FromMilliseconds(100);

    /// <summary>A name for the job, drawn by rank 0.</summary>
    public static string NewName() => Convert.ToHexStringLower(RandomNumberGenerator.GetBytes(8));

    /// <summary>Asks rank 0 for the job's name.</summary>
    /// <exception cref="CollectiveTimeoutException">Rank 0 did not answer in time.</exception>
    public static async Task<string> AttendAsync(Store store, string membership, int rank, TimeSpan timeout, CancellationToken cancellationToken)
    {
        string number = NewName();
        await store.SetAsync(Request(membership, rank), Encoding.UTF8.GetBytes(number), cancellationToken).ConfigureAwait(false);
        return Encoding.UTF8.GetString(await store.GetAsync(Answer(membership, number), timeout, cancellationToken).ConfigureAwait(false));
    }

    /// <summary>Tells every other rank <paramref name="name"/>, until cancelled.</summary>
    public static async Task HostAsync(Store store, string membership, int worldSize, string name, CancellationToken cancellationToken)
    {
        var answered = new string?[worldSize];
        try
        {
            while (true)
            {
                for (int rank = 1; rank < worldSize; rank++)
                {
                    if (await TryReadAsync(store, Request(membership, rank), cancellationToken).ConfigureAwait(false) is not { } number
                        || number == answered[rank]) continue;
                    await store.SetAsync(Answer(membership, number), Encoding.UTF8.GetBytes(name), cancellationToken).ConfigureAwait(false);
                    answered[rank] = number;
                }

                await Task.Delay(Period, cancellationToken).ConfigureAwait(false);
            }
        }
        catch (Exception error) when (error is SkeinException or OperationCanceledException or ObjectDisposedException)
        {
            // All have joined; or the store is lost, which rank 0 notices where it waits for the others.
        }
    }

    private static async Task<string?> TryReadAsync(Store store, string key, CancellationToken cancellationToken)
    {
        try
        {
            return Encoding.UTF8.GetString(await store.GetAsync(key, TimeSpan.Zero, cancellationToken).ConfigureAwait(false));
        }
        catch (CollectiveTimeoutException)
        {
            return null;
        }
    }

    private static string Request(string membership, int rank) => $"{membership}/join/{rank}";

    private static string Answer(string membership, string number) => $"{membership}/joined/{number}";
}
