using System.Net;
using Grpc.Core;
using Microsoft.Extensions.Logging;
using Skein.Collectives.Rendezvous;

namespace Skein.ParameterServer.Control;

/// <summary>What can be asked of a server by gRPC, given by the shard that it holds.</summary>
internal sealed class ShardControl : Protocol.Shard.ShardBase
{
    private readonly Func<ShardStatistics> statistics;
    private readonly Func<CancellationToken, Task<string>> saveCheckpoint;

    private ShardControl(Func<ShardStatistics> statistics, Func<CancellationToken, Task<string>> saveCheckpoint)
    {
        this.statistics = statistics;
        this.saveCheckpoint = saveCheckpoint;
    }

    /// <summary>Starts to serve a shard's control.</summary>
    /// <param name="listen">Where; port 0 lets the system choose.</param>
    /// <param name="secret">The job's secret.</param>
    /// <param name="statistics">What the shard has done; called on any thread.</param>
    /// <param name="saveCheckpoint">Saves the shard and returns the path; called on any thread, also while it runs already.</param>
    /// <param name="logger">Where to log; null for nowhere.</param>
    /// <param name="cancellationToken">Gives up.</param>
    /// <exception cref="Skein.Collectives.RendezvousException">The address cannot be listened at.</exception>
    public static Task<ControlHost> StartAsync(
        IPEndPoint listen, JobSecret secret, Func<ShardStatistics> statistics, Func<CancellationToken, Task<string>> saveCheckpoint,
        ILogger? logger = null, CancellationToken cancellationToken = default) =>
        ControlHost.StartAsync(listen, secret, new ShardControl(statistics, saveCheckpoint), logger, cancellationToken);

    public override Task<Protocol.GetStatisticsReply> GetStatistics(Protocol.GetStatisticsRequest request, ServerCallContext context)
    {
        ShardStatistics current = statistics();
        return Task.FromResult(new Protocol.GetStatisticsReply
        {
            Shard = current.Shard,
            Generation = current.Generation,
            Updates = current.Updates,
            Pushes = current.Pushes,
            Pulls = current.Pulls,
            BytesReceived = current.BytesReceived,
            BytesSent = current.BytesSent,
            RejectedPushes = current.RejectedPushes,
            StoredRows = current.StoredRows,
            ClockStaleness = { current.ClockStaleness },
            UpdateStaleness = { current.UpdateStaleness },
        });
    }

    public override async Task<Protocol.SaveCheckpointReply> SaveCheckpoint(Protocol.SaveCheckpointRequest request, ServerCallContext context)
    {
        try
        {
            return new Protocol.SaveCheckpointReply { Path = await saveCheckpoint(context.CancellationToken).ConfigureAwait(false) };
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException or ParameterServerException)
        {
            throw new RpcException(new Status(StatusCode.FailedPrecondition, $"the checkpoint could not be saved: {error.Message}"));
        }
    }
}
