using System.Net.Sockets;
using Grpc.Core;
using Grpc.Net.Client;
using Skein.Collectives;
using Skein.Collectives.Rendezvous;

namespace Skein.ParameterServer.Control;

/// <summary>Connects to whoever serves a <see cref="ControlService"/> of the same job.</summary>
internal static class ControlChannel
{
    // A host that vanished without a word is noticed after both.
    private static readonly TimeSpan PingDelay = TimeSpan.FromSeconds(5);
    private static readonly TimeSpan PingTimeout = TimeSpan.FromSeconds(10);

    /// <summary>A channel that connects with its first call, and keeps trying to for <paramref name="timeout"/>.</summary>
    public static GrpcChannel Open(string host, int port, JobSecret secret, TimeSpan timeout)
    {
        var handler = new SocketsHttpHandler
        {
            UseProxy = false,
            KeepAlivePingDelay = PingDelay,
            KeepAlivePingTimeout = PingTimeout,
            KeepAlivePingPolicy = HttpKeepAlivePingPolicy.WithActiveRequests,
            ConnectCallback = async (_, cancellationToken) => new NetworkStream(
                await AuthenticatedConnection.ConnectAsync(
                    host, port, secret, ConnectionPurpose.Control, ReadOnlyMemory<byte>.Empty, timeout, cancellationToken).ConfigureAwait(false),
                ownsSocket: true),
        };
        return GrpcChannel.ForAddress($"http://{AuthenticatedConnection.Name(host, port)}", new GrpcChannelOptions
        {
            HttpHandler = handler,
            DisposeHttpClient = true,
            MaxReceiveMessageSize = ControlService.MaximumMessageLength,
            MaxSendMessageSize = ControlService.MaximumMessageLength,
        });
    }

    /// <summary>The error behind a failed call: the other side's refusal, or why there was no connection.</summary>
    /// <param name="error">What the call threw.</param>
    /// <param name="otherwise">What to say when it is neither.</param>
    public static SkeinException Explain(RpcException error, string otherwise)
    {
        if (error.StatusCode is StatusCode.FailedPrecondition or StatusCode.InvalidArgument)
        {
            return new ParameterServerException(error.Status.Detail, error);
        }

        for (Exception? cause = error.Status.DebugException; cause is not null; cause = cause.InnerException)
        {
            if (cause is JobAuthenticationException or RendezvousException) return (SkeinException)cause;
        }

        return new ParameterServerException(otherwise, error);
    }
}
