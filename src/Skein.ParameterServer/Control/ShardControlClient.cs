using Grpc.Core;
using Grpc.Net.Client;
using Skein.Collectives;
using Skein.Collectives.Rendezvous;

namespace Skein.ParameterServer.Control;

/// <summary>Asks a server of a job for its statistics and checkpoints. Thread-safe.</summary>
public sealed class ShardControlClient : IDisposable
{
    private readonly string address;
    private readonly TimeSpan timeout;
    private readonly GrpcChannel channel;
    private readonly Protocol.Shard.ShardClient calls;

    /// <summary>Connects with the first call.</summary>
    /// <param name="host">The server's host (<see cref="ServerView.Host"/>).</param>
    /// <param name="port">Its <see cref="ServerView.ControlPort"/>.</param>
    /// <param name="secret">The job's secret.</param>
    /// <param name="timeout">How long each call may take.</param>
    public ShardControlClient(string host, int port, JobSecret secret, TimeSpan timeout)
    {
        ArgumentNullException.ThrowIfNull(secret);
        address = AuthenticatedConnection.Name(host, port);
        this.timeout = timeout;
        channel = ControlChannel.Open(host, port, secret, timeout);
        calls = new Protocol.Shard.ShardClient(channel);
    }

    /// <summary>What the server has done so far.</summary>
    /// <exception cref="SkeinException">The server was not reached, or did not answer in time.</exception>
    public async Task<ShardStatistics> GetStatisticsAsync(CancellationToken cancellationToken = default)
    {
        Protocol.GetStatisticsReply reply = await CallAsync(
            calls.GetStatisticsAsync(new Protocol.GetStatisticsRequest(), Options(cancellationToken)),
            "tell its statistics", cancellationToken).ConfigureAwait(false);
        return new ShardStatistics
        {
            Shard = reply.Shard,
            Generation = reply.Generation,
            Updates = reply.Updates,
            Pushes = reply.Pushes,
            Pulls = reply.Pulls,
            BytesReceived = reply.BytesReceived,
            BytesSent = reply.BytesSent,
            RejectedPushes = reply.RejectedPushes,
            StoredRows = reply.StoredRows,
            ClockStaleness = [.. reply.ClockStaleness],
            UpdateStaleness = [.. reply.UpdateStaleness],
        };
    }

    /// <summary>Lets the server save its shard.</summary>
    /// <returns>The checkpoint's path on the server's host.</returns>
    /// <exception cref="SkeinException">The server was not reached, could not save, or did not answer in time.</exception>
    public async Task<string> SaveCheckpointAsync(CancellationToken cancellationToken = default)
    {
        Protocol.SaveCheckpointReply reply = await CallAsync(
            calls.SaveCheckpointAsync(new Protocol.SaveCheckpointRequest(), Options(cancellationToken)),
            "save a checkpoint", cancellationToken).ConfigureAwait(false);
        return reply.Path;
    }

    /// <summary>Closes the connection.</summary>
    public void Dispose() => channel.Dispose();

    private CallOptions Options(CancellationToken cancellationToken) =>
        new(deadline: DateTime.UtcNow + timeout, cancellationToken: cancellationToken);

    private async Task<T> CallAsync<T>(AsyncUnaryCall<T> call, string what, CancellationToken cancellationToken)
    {
        using (call)
        {
            try
            {
                return await call.ResponseAsync.ConfigureAwait(false);
            }
            catch (RpcException error)
            {
                cancellationToken.ThrowIfCancellationRequested();
                throw ControlChannel.Explain(error, error.StatusCode == StatusCode.DeadlineExceeded
                    ? $"waited {timeout.TotalSeconds:0.###} s for the server at {address} to {what}"
                    : $"the server at {address} did not {what}: {error.Status.Detail}");
            }
        }
    }
}
