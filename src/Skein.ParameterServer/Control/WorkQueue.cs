namespace Skein.ParameterServer.Control;

/// <summary>
/// The chunks of one epoch: hands each out to one worker at a time, until it was completed once. A chunk whose holder
/// is lost is handed out again. Not thread-safe.
/// </summary>
internal sealed class WorkQueue(int chunks)
{
    private readonly Queue<int> returned = new();
    private readonly SortedDictionary<int, int> held = [];
    private int next;
    private int completed;

    /// <summary>The number of chunks.</summary>
    public int Chunks => chunks;

    /// <summary>Whether every chunk was completed.</summary>
    public bool IsComplete => completed == chunks;

    /// <summary>The chunk that each worker holds, by worker.</summary>
    public IReadOnlyDictionary<int, int> Held => held;

    /// <summary>Takes note that <paramref name="worker"/> has finished <paramref name="chunk"/>.</summary>
    /// <exception cref="ParameterServerException">It does not hold that chunk.</exception>
    public void Complete(int worker, int chunk)
    {
        if (!held.TryGetValue(worker, out int its) || its != chunk)
        {
            throw new ParameterServerException($"worker {worker} reported chunk {chunk} as completed, which it does not hold");
        }

        held.Remove(worker);
        completed++;
    }

    /// <summary>The next chunk for <paramref name="worker"/>; null when all are completed or held.</summary>
    /// <exception cref="ParameterServerException">It holds one already.</exception>
    public int? Take(int worker)
    {
        if (held.TryGetValue(worker, out int its))
        {
            throw new ParameterServerException($"worker {worker} asked for a chunk before it reported chunk {its} as completed");
        }

        if (!returned.TryDequeue(out int chunk))
        {
            if (next == chunks) return null;
            chunk = next++;
        }

        held.Add(worker, chunk);
        return chunk;
    }

    /// <summary>Queues the chunk that <paramref name="worker"/> holds, if any, again: it will not complete it.</summary>
    public void Release(int worker)
    {
        if (held.Remove(worker, out int chunk)) returned.Enqueue(chunk);
    }
}
