using System.Net;
using Skein.ParameterServer;

namespace Skein.Hosting.ParameterServers;

/// <summary>A parameter server of a job, with what its members ask of it. Thread-safe.</summary>
public sealed class ShardHost : IAsyncDisposable
{
    private readonly ParameterShard shard;
    private readonly ControlHost control;

    private ShardHost(ParameterShard shard, ControlHost control)
    {
        this.shard = shard;
        this.control = control;
    }

    /// <inheritdoc cref="ParameterShard.Completion"/>
    public Task Completion => shard.Completion;

    /// <summary>Starts to listen and registers with the coordinator.</summary>
    /// <exception cref="Skein.Collectives.RendezvousException">
    /// The coordinator was not reached, or the address cannot be listened at.
    /// </exception>
    /// <exception cref="ParameterServerException">The coordinator refused, or the job has failed.</exception>
    public static async Task<ShardHost> StartAsync(ParameterShardOptions options, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(options);
        var shard = new ParameterShard(options);
        ControlHost? control = null;
        try
        {
            control = await ControlHost.StartAsync(
                new IPEndPoint(options.Address, 0), options.Secret, shard.Service, options.Logger, cancellationToken).ConfigureAwait(false);
            await shard.JoinAsync(control.Endpoint.Port, cancellationToken).ConfigureAwait(false);
            return new ShardHost(shard, control);
        }
        catch
        {
            await shard.DisposeAsync().ConfigureAwait(false);
            if (control is not null) await control.DisposeAsync().ConfigureAwait(false);
            throw;
        }
    }

    /// <summary>Stops serving and frees the shard's memory.</summary>
    public async ValueTask DisposeAsync()
    {
        await shard.DisposeAsync().ConfigureAwait(false);
        await control.DisposeAsync().ConfigureAwait(false);
    }
}
