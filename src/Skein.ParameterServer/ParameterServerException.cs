using Skein.Collectives;

namespace Skein.ParameterServer;

/// <summary>
/// A job with parameter servers failed, or a member of it asked for what the job cannot do. A job's failure is final:
/// every member gets the same message.
/// </summary>
public sealed class ParameterServerException : SkeinException
{
    /// <summary>Names the member that failed or waited, and what to do.</summary>
    public ParameterServerException(string message, Exception? inner = null) : base(message, inner) { }
}
