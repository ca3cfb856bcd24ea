using System.Net;
using Skein.Collectives.Rendezvous;
using Skein.ParameterServer.Control;

namespace Skein.Hosting.ParameterServers;

/// <summary>The coordinator of a job with parameter servers, served to its members. Thread-safe.</summary>
public sealed class CoordinatorHost : IAsyncDisposable
{
    private readonly Coordinator coordinator;
    private readonly ControlHost host;

    private CoordinatorHost(Coordinator coordinator, ControlHost host)
    {
        this.coordinator = coordinator;
        this.host = host;
    }

    /// <summary>Where members register.</summary>
    public IPEndPoint Endpoint => host.Endpoint;

    /// <inheritdoc cref="Coordinator.Finished"/>
    public Task<string?> Finished => coordinator.Finished;

    /// <summary>Starts to wait for members.</summary>
    /// <param name="options">How the job is made up.</param>
    /// <param name="secret">Proves that a member belongs to the job.</param>
    /// <param name="listen">Where members register; port 0 lets the system choose. Null: loopback.</param>
    /// <param name="cancellationToken">Gives up.</param>
    /// <exception cref="Skein.Collectives.RendezvousException">The address cannot be listened at.</exception>
    public static async Task<CoordinatorHost> StartAsync(
        CoordinatorOptions options, JobSecret secret, IPEndPoint? listen = null, CancellationToken cancellationToken = default)
    {
        var coordinator = new Coordinator(options);
        try
        {
            ControlHost host = await ControlHost.StartAsync(
                listen ?? new IPEndPoint(IPAddress.Loopback, 0), secret, coordinator.Service, options.Logger, cancellationToken)
                .ConfigureAwait(false);
            return new CoordinatorHost(coordinator, host);
        }
        catch
        {
            await coordinator.DisposeAsync().ConfigureAwait(false);
            throw;
        }
    }

    /// <summary>Stops: a job that has not ended fails by it. Tells the members, for at most 2 s.</summary>
    public async ValueTask DisposeAsync()
    {
        await coordinator.DisposeAsync().ConfigureAwait(false);
        await host.DisposeAsync().ConfigureAwait(false);
    }
}
