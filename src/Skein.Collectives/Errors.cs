namespace Skein.Collectives;

/// <summary>
/// The base of every error that a distributed job can meet at run time. After one of these the process group is
/// failed: each later call on it throws the same error, and the job has to be restarted (see docs/errors.md).
/// </summary>
public abstract class SkeinException : Exception
{
    private protected SkeinException(string message, Exception? inner = null) : base(message, inner) { }
}

/// <summary>A rank died, left, or could no longer be reached, while others needed it.</summary>
public sealed class PeerLostException : SkeinException
{
    /// <summary>Names the lost rank and who waited for it in what.</summary>
    public PeerLostException(string message, Exception? inner = null) : base(message, inner) { }
}

/// <summary>The ranks called different collectives, or the same one with different arguments.</summary>
public sealed class CollectiveMismatchException : SkeinException
{
    /// <summary>Names both calls and their ranks.</summary>
    public CollectiveMismatchException(string message, Exception? inner = null) : base(message, inner) { }
}

/// <summary>A wait ran longer than the job's timeout.</summary>
public sealed class CollectiveTimeoutException : SkeinException
{
    /// <summary>Names who waited for whom in what, and for how long.</summary>
    public CollectiveTimeoutException(string message, Exception? inner = null) : base(message, inner) { }
}

/// <summary>A connection could not prove that it knows the job's secret, or no secret was given.</summary>
public sealed class JobAuthenticationException : SkeinException
{
    /// <summary>Says which side refused and what to set.</summary>
    public JobAuthenticationException(string message, Exception? inner = null) : base(message, inner) { }
}

/// <summary>The ranks could not find each other: a bad address, a port in use, a missing or contradictory environment.</summary>
public sealed class RendezvousException : SkeinException
{
    /// <summary>Says what was wrong, with the value, and what to do.</summary>
    public RendezvousException(string message, Exception? inner = null) : base(message, inner) { }
}

/// <summary>Another rank reported an error that ended the job; the message is that rank's.</summary>
public sealed class JobAbortedException : SkeinException
{
    /// <summary>Names the rank that gave up and its reason.</summary>
    public JobAbortedException(string message, Exception? inner = null) : base(message, inner) { }
}
