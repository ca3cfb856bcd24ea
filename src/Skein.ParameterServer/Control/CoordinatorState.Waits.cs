using System.Diagnostics;
using Google.Protobuf;

namespace Skein.ParameterServer.Control;

/// <content>Sums, work and what is kept, which workers wait for.</content>
internal sealed partial class CoordinatorState
{
    private readonly Dictionary<string, SumRound> sums = [];
    private readonly Dictionary<int, WorkQueue> work = [];
    private readonly Dictionary<string, ByteString> kept = [];
    private TaskCompletionSource changed = new(TaskCreationOptions.RunContinuationsAsynchronously);

    /// <summary>Adds a worker's values to those that the other workers contribute under the same name, and waits for them.</summary>
    /// <exception cref="ParameterServerException">The job failed, the workers disagree, or one did not contribute in time.</exception>
    public Task<SumResult> SumAsync(string name, int worker, double[] values, CancellationToken cancellationToken)
    {
        SumRound? round;
        lock (gate)
        {
            ThrowUnlessAlive(worker);
            if (!sums.TryGetValue(name, out round)) sums.Add(name, round = new SumRound(name, values.Length));
            round.Contribute(worker, values);
            UpdateSums();
            WakeWaiters();
        }

        return WaitAsync(
            () => round.Failure is { } failure ? throw new ParameterServerException(failure) : round.Result,
            () =>
            {
                string missing = string.Join(", ", round.MissingOf(membership.AwaitedWorkers));
                round.Fail($"worker {worker} waited {options.Timeout.TotalSeconds:0.###} s for worker(s) {missing} to contribute to the sum '{name}'");
                WakeWaiters();
                return round.Failure!;
            },
            cancellationToken);
    }

    /// <summary>Takes note of the chunk that a worker has completed (-1 for none), and hands it the next one unless that was its last.</summary>
    /// <returns>The chunk; none when the epoch is complete, or the worker wants no more.</returns>
    /// <exception cref="ParameterServerException">The job failed, the workers disagree, or a held chunk was not completed in time.</exception>
    public Task<WorkItem> TakeWorkAsync(int worker, int epoch, int chunks, int completed, bool last, CancellationToken cancellationToken)
    {
        WorkQueue? queue;
        lock (gate)
        {
            ThrowUnlessAlive(worker);
            if (!work.TryGetValue(epoch, out queue)) work.Add(epoch, queue = new WorkQueue(chunks));
            if (queue.Chunks != chunks)
            {
                throw new ParameterServerException(
                    $"worker {worker} divides epoch {epoch} into {chunks} chunks, but another worker into {queue.Chunks}; start all workers with the same data");
            }

            if (completed >= 0)
            {
                queue.Complete(worker, completed);
                if (queue.IsComplete) WakeWaiters();
            }

            if (last) return Task.FromResult(new WorkItem(null));
        }

        return WaitAsync(
            () =>
            {
                if (queue.IsComplete) return new WorkItem(null);
                ThrowUnlessAlive(worker);
                return queue.Take(worker) is { } chunk ? new WorkItem(chunk) : null;
            },
            () =>
            {
                string held = string.Join(", ", queue.Held.Select(pair => $"chunk {pair.Value} (worker {pair.Key})"));
                return $"worker {worker} waited {options.Timeout.TotalSeconds:0.###} s for others to complete what they hold of epoch {epoch}: {held}";
            },
            cancellationToken);
    }

    /// <summary>Keeps what worker 0 says for the others.</summary>
    /// <exception cref="ParameterServerException">The job failed, or another worker said it.</exception>
    public void Keep(int worker, string name, ByteString value)
    {
        lock (gate)
        {
            ThrowUnlessAlive(worker);
            if (worker != 0) throw new ParameterServerException($"worker {worker} cannot keep '{name}': worker 0 says what is kept");
            kept[name] = value;
            WakeWaiters();
        }
    }

    /// <summary>Waits for what worker 0 keeps under that name.</summary>
    /// <exception cref="ParameterServerException">The job failed, or worker 0 did not say it in time.</exception>
    public Task<ByteString> FetchAsync(int worker, string name, CancellationToken cancellationToken) => WaitAsync(
        () => kept.GetValueOrDefault(name),
        () => $"worker {worker} waited {options.Timeout.TotalSeconds:0.###} s for worker 0 to say '{name}'",
        cancellationToken);

    /// <summary>
    /// Under the lock, asks <paramref name="poll"/> after every change until it has a result, or
    /// <paramref name="explain"/>, after the timeout, who waited for whom.
    /// </summary>
    private async Task<T> WaitAsync<T>(Func<T?> poll, Func<string> explain, CancellationToken cancellationToken)
        where T : class
    {
        long start = Stopwatch.GetTimestamp();
        while (true)
        {
            Task change;
            lock (gate)
            {
                if (membership.View.Failure is { } failure) throw new ParameterServerException(failure);
                if (poll() is { } result) return result;
                if (Stopwatch.GetElapsedTime(start) >= options.Timeout) throw new ParameterServerException(explain());
                change = changed.Task;
            }

            TimeSpan left = options.Timeout - Stopwatch.GetElapsedTime(start);
            try
            {
                await change.WaitAsync(left > TimeSpan.Zero ? left : TimeSpan.Zero, cancellationToken).ConfigureAwait(false);
            }
            catch (TimeoutException)
            {
                // The next round looks once more, and then says who waited for whom.
            }
        }
    }

    private void ThrowUnlessAlive(int worker)
    {
        if (membership.View.Failure is { } failure) throw new ParameterServerException(failure);
        if (!membership.View.Workers.Contains(worker))
        {
            throw new ParameterServerException($"worker {worker} is not (any more) part of the job");
        }
    }

    private void UpdateSums()
    {
        IReadOnlyCollection<int> awaited = membership.AwaitedWorkers;
        foreach ((string name, SumRound round) in sums.ToArray())
        {
            if (!round.TryEnd(awaited)) continue;
            sums.Remove(name);

            // Who joined now would begin with a sum that the others are past, and all would wait for one another.
            membership.Close();
        }
    }

    private void ReleaseWork(int worker)
    {
        foreach (WorkQueue queue in work.Values) queue.Release(worker);
    }

    private void WakeWaiters()
    {
        changed.SetResult();
        changed = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
    }
}

/// <summary>What a worker gets to do: a chunk, or none because its epoch is complete.</summary>
internal sealed record WorkItem(int? Chunk);
