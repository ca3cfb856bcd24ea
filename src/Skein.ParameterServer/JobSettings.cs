using System.Text.Json;

namespace Skein.ParameterServer;

/// <summary>What all servers and workers of a job agree on; the coordinator hands it to each. Immutable.</summary>
public sealed record JobSettings
{
    /// <summary>How far workers may run apart.</summary>
    public string Consistency { get; init; } = "bsp";

    /// <summary>How a gradient's staleness scales its learning rate; only asynchronous and bounded updates have any.</summary>
    public string StalenessWeighting { get; init; } = "none";

    /// <summary>The optimizer that the servers run.</summary>
    public ServerOptimizerOptions Optimizer { get; init; } = new();

    /// <summary>
    /// λ of delay compensation (Zheng et al. 2017, "Asynchronous stochastic gradient descent with delay compensation",
    /// equation 10), 0 for none. Costs a copy of the parameters per worker on the servers.
    /// </summary>
    public float DelayCompensation { get; init; }

    /// <summary>Whether gradients with NaN or infinity are applied; otherwise such a push is refused and the job ends.</summary>
    public bool AllowNonFinite { get; init; }

    /// <summary>Where the servers write their checkpoints; null for none.</summary>
    public string? CheckpointDirectory { get; init; }

    /// <summary>The updates between two checkpoints of a shard; 0 leaves it to requests.</summary>
    public long CheckpointEvery { get; init; }

    /// <summary>Whether shards begin with the state of their last checkpoint.</summary>
    public bool Restore { get; init; }

    /// <summary>The number of shards.</summary>
    public required int Servers { get; init; }

    /// <summary>What tables' initial rows follow from.</summary>
    public long Seed { get; init; }

    /// <summary>The number of workers that the job begins with.</summary>
    public required int Workers { get; init; }

    /// <summary>Whether workers may come and go.</summary>
    public bool Elastic { get; init; }

    /// <summary>The longest wait for another process.</summary>
    public double TimeoutSeconds { get; init; } = 300;

    /// <summary>As JSON, which is how the coordinator hands it on.</summary>
    public string ToJson() => JsonSerializer.Serialize(this);

    /// <summary>From <see cref="ToJson"/>.</summary>
    /// <exception cref="JsonException">It is not that.</exception>
    public static JobSettings Parse(string json) =>
        JsonSerializer.Deserialize<JobSettings>(json) ?? throw new JsonException("the settings of the job are null");
}
