using Grpc.Core;

namespace Skein.ParameterServer.Control;

/// <summary>What can be asked of a server by gRPC, given by the shard that it holds.</summary>
/// <param name="statistics">What the shard has done; called on any thread.</param>
/// <param name="saveCheckpoint">Saves the shard and returns the path; called on any thread, also while it runs already.</param>
internal sealed class ShardControl(Func<ShardStatistics> statistics, Func<CancellationToken, Task<string>> saveCheckpoint)
    : Protocol.Shard.ShardBase
{
    /// <summary>As it is to be served.</summary>
    public ControlService Service => new(Protocol.Shard.BindService(this), Protocol.Shard.Descriptor);

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
