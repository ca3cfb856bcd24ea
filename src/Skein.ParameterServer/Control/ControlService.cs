using Google.Protobuf.Reflection;
using Grpc.Core;

namespace Skein.ParameterServer.Control;

/// <summary>
/// What a member of a job answers by gRPC, without the server that carries it: to be served over the connections of a
/// <see cref="ControlListener"/>, HTTP/2 without TLS.
/// </summary>
/// <param name="Definition">The service's methods.</param>
/// <param name="Descriptor">Its description, for reflection.</param>
public sealed record ControlService(ServerServiceDefinition Definition, ServiceDescriptor Descriptor)
{
    /// <summary>The longest message either way, in bytes.</summary>
    public const int MaximumMessageLength = 4 << 20;
}
