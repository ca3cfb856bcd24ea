using System.Net;
using Skein.Collectives;
using Skein.Collectives.Rendezvous;

namespace Skein.TestKit;

/// <summary>
/// Runs the ranks of a job as threads of this process, which rendezvous, connect and communicate as processes would.
/// </summary>
public static class Ranks
{
    /// <summary>How long a run may take before the test fails and its ranks are abandoned.</summary>
    public static TimeSpan Limit { get; } = TimeSpan.FromSeconds(120);

    /// <summary>The timeout of the job's own waits, unless a test sets another: below the limit, so that the job's error is seen.</summary>
    public static TimeSpan JobTimeout { get; } = TimeSpan.FromSeconds(30);

    /// <summary>Runs <paramref name="body"/> on every rank.</summary>
    /// <param name="worldSize">The number of ranks.</param>
    /// <param name="transport">What connects them.</param>
    /// <param name="body">What each rank does, on a thread of its own.</param>
    /// <param name="configure">Changes the options of a rank.</param>
    /// <exception cref="AggregateException">At least one rank failed: the exceptions of all that did.</exception>
    /// <exception cref="TimeoutException">Ranks did not come to an end; names them.</exception>
    public static void Run(
        int worldSize, TransportKind transport, Action<ProcessGroup> body,
        Func<ProcessGroupOptions, ProcessGroupOptions>? configure = null)
    {
        Exception[] failures = [.. Outcomes(worldSize, transport, body, configure).OfType<Exception>()];
        if (failures.Length > 0) throw new AggregateException(failures);
    }

    /// <summary>Like <see cref="Run"/>, for ranks that are expected to fail.</summary>
    /// <returns>The exception of each rank, null where it ended well.</returns>
    public static Exception?[] Outcomes(
        int worldSize, TransportKind transport, Action<ProcessGroup> body,
        Func<ProcessGroupOptions, ProcessGroupOptions>? configure = null)
    {
        configure ??= options => options;
        var template = new ProcessGroupOptions
        {
            WorldSize = worldSize,
            LocalWorldSize = worldSize,
            Transport = transport,
            Timeout = JobTimeout,
            JobId = $"test-{Guid.NewGuid():N}",
            Secret = JobSecret.Generate(),
            StoreHostedByLauncher = true,
        };
        TcpStoreServer server = TcpStoreServer.Start(new IPEndPoint(IPAddress.Loopback, 0), template.Secret);
        try
        {
            template = template with { MasterPort = server.Endpoint.Port };
            return RunThreads(worldSize, rank =>
            {
                ProcessGroup group = ProcessGroup.InitializeAsync(configure(template with { Rank = rank, LocalRank = rank })).GetAwaiter().GetResult();
                try
                {
                    body(group);
                }
                finally
                {
                    group.DisposeAsync().AsTask().GetAwaiter().GetResult();
                }
            });
        }
        finally
        {
            server.DisposeAsync().AsTask().GetAwaiter().GetResult();
        }
    }

    private static Exception?[] RunThreads(int worldSize, Action<int> body)
    {
        var failures = new Exception?[worldSize];
        Thread[] threads = [.. Enumerable.Range(0, worldSize).Select(rank => new Thread(() =>
        {
            try
            {
                body(rank);
            }
            catch (Exception error)
            {
                failures[rank] = error;
            }
        }) { IsBackground = true, Name = $"rank {rank}" })];
        foreach (Thread thread in threads) thread.Start();
        DateTime end = DateTime.UtcNow + Limit;
        foreach (Thread thread in threads)
        {
            TimeSpan left = end - DateTime.UtcNow;
            thread.Join(left > TimeSpan.Zero ? left : TimeSpan.Zero);
        }

        string[] stuck = [.. threads.Where(thread => thread.IsAlive).Select(thread => thread.Name!)];
        if (stuck.Length == 0) return failures;
        throw new TimeoutException(
            $"{string.Join(", ", stuck)} did not end within {Limit.TotalSeconds} s", failures.OfType<Exception>().FirstOrDefault());
    }
}
