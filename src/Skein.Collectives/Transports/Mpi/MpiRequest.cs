namespace Skein.Collectives.Transports.Mpi;

/// <summary>An operation under way in MPI; reusable once it has completed.</summary>
internal sealed class MpiRequest
{
    /// <summary>MPI's own handle. Guarded by <see cref="OpenMpi"/>'s lock.</summary>
    public nint Handle;

    private volatile bool completed = true;

    /// <summary>True when no operation is under way.</summary>
    public bool Completed => completed;

    /// <summary>The length of the message that a completed receive has got.</summary>
    public int Length { get; private set; }

    public void Start(nint handle)
    {
        Handle = handle;
        completed = false;
    }

    public void Complete(int length)
    {
        Length = length;
        completed = true;
    }
}

/// <summary>A call into MPI failed; the transport turns it into the loss of a peer.</summary>
internal sealed class MpiException(string message) : IOException(message);
