using Skein.Collectives;

namespace Skein.Training.Tests;

/// <summary>Runs a body on every rank of an in-process group, each on a thread of its own.</summary>
internal static class RankThreads
{
    /// <returns>What each rank returned.</returns>
    /// <exception cref="AggregateException">What any ranks threw.</exception>
    public static async Task<T[]> Run<T>(int worldSize, Func<ProcessGroup, Task<T>> body)
    {
        ProcessGroup[] groups = await ProcessGroup.CreateInProcessAsync(worldSize, new ProcessGroupOptions { Timeout = TimeSpan.FromSeconds(60) });
        try
        {
            Task<T>[] ranks = [.. groups.Select(group => Task.Factory.StartNew(
                () => body(group).GetAwaiter().GetResult(), CancellationToken.None, TaskCreationOptions.LongRunning, TaskScheduler.Default))];
            Task<T[]> all = Task.WhenAll(ranks);
            await ((Task)all).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
            if (all.Exception is not null) throw all.Exception;
            return all.Result;
        }
        finally
        {
            await Task.WhenAll(groups.Select(static group => group.DisposeAsync().AsTask()));
        }
    }

    /// <inheritdoc cref="Run{T}(int, Func{ProcessGroup, Task{T}})"/>
    public static Task<T[]> Run<T>(int worldSize, Func<ProcessGroup, T> body) => Run(worldSize, group => Task.FromResult(body(group)));
}
