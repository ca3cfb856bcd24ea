using System.Security.Cryptography;

namespace Skein.ParameterServer.Control;

internal enum MemberState
{
    Alive,

    /// <summary>Finished well.</summary>
    Left,

    /// <summary>Its connection or its heartbeats ended before it had left.</summary>
    Lost,
}

/// <summary>A process that has registered.</summary>
internal sealed class Member(int id, Registration registration, string name, TimeSpan now)
{
    /// <summary>Workers and servers count apart.</summary>
    public int Id => id;

    public Registration Registration => registration;

    /// <summary>Known to this member, the coordinator and the servers only: proves that a call or a stream is its own.</summary>
    public Guid Token { get; } = new(RandomNumberGenerator.GetBytes(16));

    /// <summary>"worker 1" or "server shard 0".</summary>
    public string Name => name;

    public MemberState State { get; set; }

    /// <summary>Why it counts as lost.</summary>
    public string? LossReason { get; set; }

    /// <summary>When it was last heard of.</summary>
    public TimeSpan LastHeard { get; set; } = now;

    public override string ToString() => $"{name} (process {registration.ProcessId} on {registration.HostName})";
}
