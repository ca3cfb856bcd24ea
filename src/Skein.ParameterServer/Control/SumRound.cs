namespace Skein.ParameterServer.Control;

/// <summary>One sum under one name, from the first contribution to the last. Not thread-safe.</summary>
internal sealed class SumRound(string name, int length)
{
    private readonly SortedDictionary<int, double[]> contributions = [];

    /// <summary>The sum, once every awaited worker has contributed.</summary>
    public SumResult? Result { get; private set; }

    /// <summary>Why there will be no sum; whoever contributes learns it.</summary>
    public string? Failure { get; private set; }

    /// <summary>Takes a worker's values.</summary>
    /// <exception cref="ParameterServerException">It has contributed before.</exception>
    public void Contribute(int worker, double[] values)
    {
        if (!contributions.TryAdd(worker, values))
        {
            throw new ParameterServerException($"worker {worker} contributed twice to the sum '{name}'");
        }

        if (values.Length != length)
        {
            Fail($"worker {worker} contributed {values.Length} values to the sum '{name}', but another worker {length}");
        }
    }

    /// <summary>The workers among <paramref name="awaited"/> that have not contributed.</summary>
    public IEnumerable<int> MissingOf(IEnumerable<int> awaited) => awaited.Where(worker => !contributions.ContainsKey(worker));

    /// <summary>Ends the round in an error; the first one counts.</summary>
    public void Fail(string reason) => Failure ??= reason;

    /// <summary>Ends the round if every one of <paramref name="awaited"/> has contributed; what others contributed does not count.</summary>
    /// <returns>Whether nobody is awaited any more.</returns>
    public bool TryEnd(IReadOnlyCollection<int> awaited)
    {
        if (MissingOf(awaited).Any()) return false;
        if (Failure is not null) return true;
        var sums = new double[length];
        int[] workers = [.. contributions.Keys.Where(awaited.Contains)];
        foreach (int worker in workers)
        {
            double[] values = contributions[worker];
            for (int i = 0; i < length; i++) sums[i] += values[i];
        }

        Result = new SumResult(sums, workers);
        return true;
    }
}
