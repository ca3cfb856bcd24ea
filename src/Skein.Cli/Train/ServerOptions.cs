using Skein.ParameterServer;

namespace Skein.Cli.Train;

/// <summary>What was asked of the parameter servers.</summary>
internal sealed record ServerOptions
{
    /// <summary>Number of shards, 1 or more.</summary>
    public int Servers { get; init; } = 1;

    /// <summary>1, or 2 for a backup of each shard.</summary>
    public int Replicas { get; init; } = 1;

    /// <summary><c>bsp</c>, <c>ssp:BOUND</c> or <c>async</c>.</summary>
    public string Consistency { get; init; } = "bsp";

    /// <summary><c>none</c>, <c>inverse</c>, <c>exponential:RATE</c> or <c>polynomial:ALPHA</c>.</summary>
    public string StalenessWeighting { get; init; } = "none";

    /// <summary>As <see cref="ServerOptimizerOptions.Parse"/> reads it. Null: as the workers' option says.</summary>
    public string? Optimizer { get; init; }

    /// <summary>λ of delay compensation, 0 or more.</summary>
    public float DelayCompensation { get; init; }

    /// <summary>Whether data are handed out from a queue.</summary>
    public bool Balance { get; init; }

    /// <summary>How many consecutive workers push as one, 1 or more; divides the number of workers.</summary>
    public int Aggregate { get; init; } = 1;

    /// <summary>Whether NaN and infinity are applied, and a run goes on with them, whatever its strategy.</summary>
    public bool AllowNonFinite { get; init; }

    /// <summary>Where checkpoints go. Null: none are written.</summary>
    public string? CheckpointDirectory { get; init; }

    /// <summary>Updates between two checkpoints, 1 or more.</summary>
    public long? CheckpointEvery { get; init; }

    /// <summary>Whether to begin with the state of the last checkpoint.</summary>
    public bool Resume { get; init; }

    /// <summary>Checks, and puts together what the members of the job agree on.</summary>
    /// <param name="workers">The number of workers that the job begins with.</param>
    /// <param name="optimizer">The optimizer that a single process would run.</param>
    /// <param name="weightDecay">The weight decay of that.</param>
    /// <param name="seed">What tables begin with follows from it.</param>
    /// <param name="timeout">The longest wait.</param>
    /// <exception cref="UsageException">Something is unknown or does not fit.</exception>
    public JobSettings ToSettings(int workers, string optimizer, double weightDecay, long seed, TimeSpan timeout)
    {
        if (Servers < 1) throw new UsageException($"--servers is {Servers}: give a whole number from 1");
        if (Replicas is not (1 or 2)) throw new UsageException($"--replicas is {Replicas}: give 1, or 2 for a backup of each shard");
        if (DelayCompensation < 0 || !float.IsFinite(DelayCompensation)) throw new UsageException($"--delay-compensation is {DelayCompensation}: give a number from 0");
        Consistency consistency = Parsed(Consistency, ParameterServer.Consistency.Parse);
        StalenessWeighting weighting = Parsed(StalenessWeighting, ParameterServer.StalenessWeighting.Parse);
        if (consistency.Synchronous)
        {
            if (weighting != ParameterServer.StalenessWeighting.Parse("none")) throw new UsageException("--staleness-weighting needs --consistency ssp:BOUND or async: with bsp no gradient is stale");
            if (DelayCompensation > 0) throw new UsageException("--delay-compensation needs --consistency ssp:BOUND or async: with bsp no gradient is delayed");
        }

        if (Balance && consistency.Bound is not null)
        {
            throw new UsageException($"--balance needs --consistency async: with {consistency} no worker may take more steps than another{(consistency.Synchronous ? "" : " but for the bound")}");
        }

        if (Aggregate < 1 || workers % Aggregate != 0) throw new UsageException($"--aggregate is {Aggregate}: give a whole number that divides the {workers} workers");
        if (Aggregate > 1 && Balance) throw new UsageException("--aggregate cannot go with --balance: workers that push as one take the same steps");

        if (CheckpointDirectory is null && (CheckpointEvery is not null || Resume))
        {
            throw new UsageException($"{(Resume ? "--resume" : "--checkpoint-every")} needs --checkpoint-dir DIR");
        }

        if (CheckpointEvery < 1) throw new UsageException($"--checkpoint-every is {CheckpointEvery}: give a whole number from 1");
        if (CheckpointDirectory is not null && CheckpointEvery is null && !Resume) throw new UsageException("--checkpoint-dir needs --checkpoint-every K or --resume");

        string name = Optimizer ?? optimizer;
        if (Optimizer is null && name == "adamw") throw new UsageException("parameter servers have no adamw: give --server-optimizer sgd, momentum, adam or adagrad");
        ServerOptimizerOptions rule = Parsed(name, ServerOptimizerOptions.Parse);
        bool saysDecay = name.Contains("weight-decay", StringComparison.Ordinal);
        return new JobSettings
        {
            Servers = Servers,
            Workers = workers / Aggregate,
            Consistency = consistency.ToString(),
            StalenessWeighting = weighting.ToString(),
            Optimizer = saysDecay ? rule : rule with { WeightDecay = weightDecay },
            DelayCompensation = DelayCompensation,
            Elastic = Balance,
            AllowNonFinite = AllowNonFinite,
            CheckpointDirectory = CheckpointDirectory is { } directory ? Path.GetFullPath(directory) : null,
            CheckpointEvery = CheckpointEvery ?? 0,
            Restore = Resume,
            Seed = seed,
            TimeoutSeconds = timeout.TotalSeconds,
        };
    }

    private static T Parsed<T>(string text, Func<string, T> parse)
    {
        try
        {
            return parse(text);
        }
        catch (FormatException error)
        {
            throw new UsageException(error.Message);
        }
    }
}
