namespace Skein.ParameterServer.Control;

/// <summary>What a process tells the coordinator of itself when it joins the job. Immutable.</summary>
public abstract record Registration
{
    private protected Registration() { }

    /// <summary>The process's number on its host, for messages.</summary>
    public int ProcessId { get; init; } = Environment.ProcessId;

    /// <summary>The name of its host, for messages.</summary>
    public string HostName { get; init; } = Environment.MachineName;
}

/// <summary>Joins as a worker.</summary>
/// <param name="Rank">From 0 to the job's number of workers - 1, or <see cref="Extra"/>.</param>
public sealed record WorkerRegistration(int Rank) : Registration
{
    /// <summary>The rank of a worker that joins a running job as one more: its id is the next one above all ranks.</summary>
    public const int Extra = -1;
}

/// <summary>Joins as a server: the first to join become the shards' primaries, the later ones their backups.</summary>
/// <param name="Host">The name or address at which the other members reach it.</param>
/// <param name="DataPort">Its port for pushes and pulls.</param>
/// <param name="ControlPort">Its port for gRPC.</param>
public sealed record ServerRegistration(string Host, int DataPort, int ControlPort) : Registration;
