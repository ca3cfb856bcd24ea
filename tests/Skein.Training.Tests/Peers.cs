using System.Net;
using Skein.Collectives;
using Skein.Collectives.Rendezvous;

namespace Skein.Training.Tests;

/// <summary>Runs a body for every rank of a job whose ranks find each other through a store, each on a thread of its own.</summary>
internal static class Peers
{
    /// <returns>What each rank returned.</returns>
    /// <exception cref="AggregateException">What any ranks threw.</exception>
    public static async Task<T[]> Run<T>(int worldSize, Func<ProcessGroupOptions, Task<T>> body)
    {
        JobSecret secret = JobSecret.Generate();
        await using var server = TcpStoreServer.Start(new IPEndPoint(IPAddress.Loopback, 0), secret);
        Task<T>[] ranks = [.. Enumerable.Range(0, worldSize).Select(rank => Task.Factory.StartNew(
            () => body(new ProcessGroupOptions
            {
                Rank = rank,
                WorldSize = worldSize,
                MasterPort = server.Endpoint.Port,
                StoreHostedByLauncher = true,
                Secret = secret,
                Timeout = TimeSpan.FromSeconds(60),
            }).GetAwaiter().GetResult(),
            CancellationToken.None, TaskCreationOptions.LongRunning, TaskScheduler.Default))];
        Task<T[]> all = Task.WhenAll(ranks);
        await ((Task)all).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        if (all.Exception is not null) throw all.Exception;
        return all.Result;
    }
}
