using Skein.Collectives;
using Skein.Collectives.Rendezvous;
using Skein.ParameterServer.Control;

namespace Skein.Training.ParameterServers;

/// <summary>Where a worker finds its job. Immutable.</summary>
public sealed record ParameterServerOptions
{
    /// <summary>The environment variable that names the coordinator, as HOST:PORT.</summary>
    public const string CoordinatorVariable = CoordinatorClient.AddressVariable;

    /// <summary>The coordinator's host.</summary>
    public required string CoordinatorHost { get; init; }

    /// <summary>The coordinator's port.</summary>
    public required int CoordinatorPort { get; init; }

    /// <summary>The job's secret.</summary>
    public required JobSecret Secret { get; init; }

    /// <summary>This worker's rank; null joins a running elastic job as one more worker.</summary>
    public int? Rank { get; init; }

    /// <summary>The options that the environment states: <c>SKEIN_COORDINATOR</c>, the job's secret, and the launcher's rank.</summary>
    /// <exception cref="RendezvousException">Something is missing or malformed; names the variable.</exception>
    public static ParameterServerOptions FromEnvironment() => FromEnvironment(
        Environment.GetEnvironmentVariable(CoordinatorVariable) is { Length: > 0 } address
            ? address
            : throw new RendezvousException(
                $"{CoordinatorVariable} is not set: start the program with skein launch --servers S, "
                + "or set it to the coordinator's HOST:PORT"));

    /// <summary>As <see cref="FromEnvironment()"/>, with the coordinator at <paramref name="address"/>, HOST:PORT.</summary>
    /// <exception cref="RendezvousException">Something is missing or malformed.</exception>
    public static ParameterServerOptions FromEnvironment(string address)
    {
        (string host, int port) = ParseAddress(address);
        JobSecret secret = JobSecret.FromEnvironment()
            ?? throw new JobAuthenticationException("no secret for the job: set SKEIN_JOB_SECRET or SKEIN_JOB_SECRET_FILE to that of the coordinator");
        return new ParameterServerOptions
        {
            CoordinatorHost = host,
            CoordinatorPort = port,
            Secret = secret,
            Rank = LauncherEnvironment.HasRank() ? LauncherEnvironment.Read().Rank : null,
        };
    }

    /// <summary>Splits HOST:PORT.</summary>
    /// <exception cref="RendezvousException">It is not that.</exception>
    public static (string Host, int Port) ParseAddress(string address)
    {
        ArgumentNullException.ThrowIfNull(address);
        int colon = address.LastIndexOf(':');
        return colon > 0 && int.TryParse(address.AsSpan(colon + 1), out int port) && port is > 0 and <= 65535
            ? (address[..colon].Trim('[', ']'), port)
            : throw new RendezvousException($"the coordinator's address is '{address}': give HOST:PORT");
    }
}
