namespace Skein.ParameterServer.Control;

/// <summary>
/// That a process which was started for a job is gone: where it had not registered, nobody has to wait for it until the timeout.
/// What becomes of those that had is known without. Immutable.
/// </summary>
/// <param name="ProcessId">The process's number on its host.</param>
/// <param name="Reason">How it ended, in words: "exited with code 3".</param>
public abstract record Departure(int ProcessId, string Reason)
{
    /// <summary>The name of its host.</summary>
    public string HostName { get; init; } = Environment.MachineName;
}

/// <summary>A worker is gone.</summary>
/// <param name="Rank">Its id in the job.</param>
/// <param name="ProcessId">The process's number on its host.</param>
/// <param name="Reason">How it ended, in words.</param>
public sealed record WorkerDeparture(int Rank, int ProcessId, string Reason) : Departure(ProcessId, Reason);

/// <summary>A server is gone.</summary>
/// <param name="Name">What its launcher calls it.</param>
/// <param name="ProcessId">The process's number on its host.</param>
/// <param name="Reason">How it ended, in words.</param>
public sealed record ServerDeparture(string Name, int ProcessId, string Reason) : Departure(ProcessId, Reason);
