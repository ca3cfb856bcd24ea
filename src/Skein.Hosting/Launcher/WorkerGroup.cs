using Skein.Hosting.ParameterServers;

namespace Skein.Hosting;

/// <summary>
/// The workers of this node: watches them, starts those again that may be lost, and ends them all when another fails or the
/// launcher is interrupted.
/// </summary>
internal sealed class WorkerGroup : IDisposable
{
    // Together under the five seconds within which a job must be gone.
    private static readonly TimeSpan ToSpeak = TimeSpan.FromSeconds(1);
    private static readonly TimeSpan ToEnd = TimeSpan.FromSeconds(2);
    private static readonly TimeSpan ToDie = TimeSpan.FromSeconds(1);

    private readonly List<WorkerProcess> workers = [];
    private readonly Lock gate = new();

    public void Add(WorkerProcess worker)
    {
        lock (gate) workers.Add(worker);
    }

    /// <summary>
    /// Asks the ranks for a dump by SIGQUIT, which those that have not joined do not expect yet: it would end them. Companions
    /// have nothing to dump.
    /// </summary>
    public async Task AskForDumpsAsync(NodeRendezvous nodes)
    {
        List<WorkerProcess> ranks;
        lock (gate) ranks = [.. workers.Where(worker => worker.Rank is not null && !worker.Exited.IsCompleted)];
        foreach (var worker in ranks)
        {
            if (await nodes.HasJoinedAsync(worker.Rank!.Value).ConfigureAwait(false)) worker.SignalHandlers(Signals.Quit);
        }
    }

    private void Signal(int signal) => Signal(signal, static _ => true);

    private void Signal(int signal, Func<WorkerProcess, bool> which)
    {
        lock (gate)
        {
            foreach (var worker in workers.Where(worker => !worker.Exited.IsCompleted && which(worker))) worker.Signal(signal);
        }
    }

    public IReadOnlyDictionary<int, IReadOnlyList<string>> LastLines() =>
        workers.Where(worker => worker.Rank is not null).ToDictionary(worker => worker.Rank!.Value, worker => worker.LastLines);

    /// <summary>Waits until the job has ended on all nodes; on return no worker of this node runs.</summary>
    public async Task<LaunchOutcome> WatchAsync(
        NodeRendezvous nodes, LaunchedServers? servers, LaunchOptions options, Func<int, WorkerProcess> startAgain,
        Interruption interruption)
    {
        var outcome = await WaitForEndAsync(nodes, servers, options, startAgain, interruption).ConfigureAwait(false);
        if (outcome.ExitCode == 0)
        {
            // Companions have nothing left to do, and mostly know.
            if (workers.Exists(worker => !worker.Exited.IsCompleted)) await StopAsync(interruption).ConfigureAwait(false);
            return outcome;
        }

        // At the same time, so that a store which does not answer keeps no worker alive.
        var left = nodes.LeaveAsync(outcome);
        await StopAsync(interruption).ConfigureAwait(false);
        await Task.WhenAny(left, interruption.Second).ConfigureAwait(false);
        return outcome;
    }

    /// <summary>Waits for the rest of the workers' output; whatever held it open is gone by now.</summary>
    public Task DrainAsync() => Task.WhenAll(workers.Select(worker => worker.DrainAsync(ToDie)));

    public void Dispose()
    {
        Signal(Signals.Kill);
        foreach (var worker in workers) worker.Dispose();
    }

    private async Task<LaunchOutcome> WaitForEndAsync(
        NodeRendezvous nodes, LaunchedServers? servers, LaunchOptions options, Func<int, WorkerProcess> startAgain,
        Interruption interruption)
    {
        var running = workers.Where(worker => worker.Rank is not null).ToList();
        var hasIndispensable = running.Exists(IsIndispensable);
        var serversFailure = servers?.Failure ?? new TaskCompletionSource<LaunchOutcome>().Task;
        var restarts = 0;
        while (running.Count > 0)
        {
            Task[] news = [.. running.Select(worker => worker.Exited), interruption.First, nodes.Failure, serversFailure];
            await Task.WhenAny(news).ConfigureAwait(false);
            if (Ended(nodes, interruption) is { } outcome) return outcome;
            var ended = running.Where(worker => worker.Exited.IsCompleted).ToList();
            var failed = ended.Where(worker => worker.Exited is { IsCompletedSuccessfully: true, Result: not 0 }).ToList();
            if (failed.Find(IsIndispensable) is { } fatal) return new LaunchOutcome(fatal.Exited.Result, fatal.Rank, Describe(fatal));
            if (serversFailure.IsCompleted) return await serversFailure.ConfigureAwait(false);
            running.RemoveAll(ended.Contains);
            foreach (var worker in ended)
            {
                var lost = failed.Contains(worker);
                var again = lost && restarts < options.Restarts && (!hasIndispensable || running.Exists(IsIndispensable));
                var how = Describe(worker);
                if (lost) options.LossSurvived(again ? $"{how}, and is started again ({++restarts} of {options.Restarts})" : how);
                if (again)
                {
                    running.Add(await ReplaceAsync(worker, startAgain).ConfigureAwait(false));
                    continue;
                }

                nodes.ReportGone(worker.Rank!.Value, Signals.Describe(worker.Exited.Result));
            }
        }

        if (servers is not null)
        {
            var served = servers.FinishAsync();
            await Task.WhenAny(served, interruption.First, nodes.Failure).ConfigureAwait(false);
            if (Ended(nodes, interruption) is { } outcome) return outcome;
            if (await served.ConfigureAwait(false) is { } failure) return new LaunchOutcome(1, null, failure);
        }

        var finished = nodes.FinishAsync();
        await Task.WhenAny(finished, interruption.First, nodes.Failure).ConfigureAwait(false);
        return finished.IsCompletedSuccessfully ? new LaunchOutcome(0, null, null) : Ended(nodes, interruption)!;

        bool IsIndispensable(WorkerProcess worker) => !options.SurvivesLossOf(worker.Rank!.Value);
    }

    private static string Describe(WorkerProcess worker) => $"{worker.Name} {Signals.Describe(worker.Exited.Result)}";

    private async Task<WorkerProcess> ReplaceAsync(WorkerProcess lost, Func<int, WorkerProcess> startAgain)
    {
        // Both write to the same log.
        await lost.DrainAsync(ToDie).ConfigureAwait(false);
        lost.Dispose();
        var successor = startAgain(lost.Rank!.Value);
        lock (gate) workers[workers.IndexOf(lost)] = successor;
        return successor;
    }

    private static LaunchOutcome? Ended(NodeRendezvous nodes, Interruption interruption)
    {
        if (interruption.First.IsCompleted) return LaunchOutcome.Interrupted;
        return nodes.Failure.IsCompleted ? nodes.Failure.Result : null;
    }

    private async Task StopAsync(Interruption interruption)
    {
        var all = Task.WhenAll(workers.Select(worker => worker.Exited));
        var ranks = Task.WhenAll(workers.Where(worker => worker.Rank is not null).Select(worker => worker.Exited));

        // Without their companions, ranks that end in good order would end in an error.
        if (interruption.First.IsCompleted) Signal(interruption.First.Result, static worker => worker.Rank is not null);

        // A failed rank's peers notice by themselves; a moment lets them say what they were waiting for.
        await Task.WhenAny(interruption.First.IsCompleted ? ranks : all, interruption.Second, Task.Delay(ToSpeak)).ConfigureAwait(false);
        Signal(Signals.Terminate);
        await Task.WhenAny(all, interruption.Second, Task.Delay(ToEnd)).ConfigureAwait(false);
        Signal(Signals.Kill);
        await Task.WhenAny(all, Task.Delay(ToDie)).ConfigureAwait(false);
    }
}
