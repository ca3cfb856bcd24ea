using Google.Protobuf;

namespace Skein.ParameterServer.Control;

/// <summary>Between what is on the wire and what the library's users see.</summary>
internal static class Messages
{
    // Names end up in messages, logs and every view of the job.
    private const int MaximumNameLength = 255;

    public static Protocol.Registration ToMessage(Registration registration)
    {
        var message = new Protocol.Registration { ProcessId = registration.ProcessId, HostName = registration.HostName };
        if (registration is ServerRegistration server)
        {
            message.Server = new Protocol.Server { Host = server.Host, DataPort = server.DataPort, ControlPort = server.ControlPort };
        }
        else
        {
            message.Worker = new Protocol.Worker { Rank = ((WorkerRegistration)registration).Rank };
        }

        return message;
    }

    /// <exception cref="InvalidDataException">It is not a registration that a member can send.</exception>
    public static Registration FromMessage(Protocol.Registration message)
    {
        CheckName(message.HostName, "host name");
        switch (message.RoleCase)
        {
            case Protocol.Registration.RoleOneofCase.Worker:
                return new WorkerRegistration(message.Worker.Rank) { ProcessId = message.ProcessId, HostName = message.HostName };
            case Protocol.Registration.RoleOneofCase.Server:
                Protocol.Server server = message.Server;
                CheckName(server.Host, "host");
                CheckPort(server.DataPort);
                CheckPort(server.ControlPort);
                return new ServerRegistration(server.Host, server.DataPort, server.ControlPort)
                {
                    ProcessId = message.ProcessId,
                    HostName = message.HostName,
                };
            default:
                throw new InvalidDataException("a member registered without a role");
        }
    }

    public static Protocol.JobView ToMessage(JobView view, Member member)
    {
        var message = new Protocol.JobView
        {
            Member = member.Id,
            Token = ToBytes(member.Token),
            Generation = view.Generation,
            Settings = view.Settings,
            Ready = view.Ready,
            Finished = view.Finished,
        };
        if (view.Failure is not null) message.Failure = view.Failure;
        message.Workers.AddRange(view.Workers);
        if (member.Registration is ServerRegistration)
        {
            message.WorkerTokens.AddRange(view.WorkerTokens.Select(ToMessage));
            message.ServerTokens.AddRange(view.ServerTokens.Select(ToMessage));
        }

        message.Shards.AddRange(view.Shards.Select(shard => new Protocol.ShardView
        {
            Index = shard.Index,
            Generation = shard.Generation,
            Primary = ToMessage(shard.Primary),
            Backup = shard.Backup is { } backup ? ToMessage(backup) : null,
        }));
        return message;
    }

    public static JobView FromMessage(Protocol.JobView message) => new()
    {
        Generation = message.Generation,
        Settings = message.Settings,
        Ready = message.Ready,
        Finished = message.Finished,
        Failure = message.HasFailure ? message.Failure : null,
        Workers = [.. message.Workers],
        WorkerTokens = message.WorkerTokens.ToDictionary(static token => token.Id, static token => ToToken(token.Token_)),
        ServerTokens = message.ServerTokens.ToDictionary(static token => token.Id, static token => ToToken(token.Token_)),
        Shards =
        [
            .. message.Shards.Select(shard => new ShardView(
                shard.Index, shard.Generation, FromMessage(shard.Primary), shard.Backup is { } backup ? FromMessage(backup) : null)),
        ],
    };

    /// <summary>From the bytes that a member proves itself with; empty for any that are none.</summary>
    public static Guid ToToken(ByteString bytes) => bytes.Length == 16 ? new Guid(bytes.Span) : Guid.Empty;

    public static Protocol.DepartRequest ToMessage(Departure departure)
    {
        var message = new Protocol.DepartRequest
        {
            ProcessId = departure.ProcessId,
            HostName = departure.HostName,
            Reason = departure.Reason,
        };
        if (departure is ServerDeparture server) message.Server = server.Name;
        else message.Worker = ((WorkerDeparture)departure).Rank;
        return message;
    }

    /// <exception cref="ParameterServerException">It is not a departure that a launcher can report.</exception>
    public static Departure FromMessage(Protocol.DepartRequest message) => message.RoleCase switch
    {
        Protocol.DepartRequest.RoleOneofCase.Worker =>
            new WorkerDeparture(message.Worker, message.ProcessId, message.Reason) { HostName = message.HostName },
        Protocol.DepartRequest.RoleOneofCase.Server =>
            new ServerDeparture(message.Server, message.ProcessId, message.Reason) { HostName = message.HostName },
        _ => throw new ParameterServerException("a process was reported as gone without its role"),
    };

    private static ByteString ToBytes(Guid token) => ByteString.CopyFrom(token.ToByteArray());

    private static Protocol.Token ToMessage(KeyValuePair<int, Guid> token) => new() { Id = token.Key, Token_ = ToBytes(token.Value) };

    private static Protocol.ServerView ToMessage(ServerView server) => new()
    {
        Id = server.Id,
        Host = server.Host,
        DataPort = server.DataPort,
        ControlPort = server.ControlPort,
        ProcessId = server.ProcessId,
    };

    private static ServerView FromMessage(Protocol.ServerView message) =>
        new(message.Id, message.Host, message.DataPort, message.ControlPort, message.ProcessId);

    private static void CheckName(string name, string what)
    {
        if (name.Length is 0 or > MaximumNameLength)
        {
            throw new InvalidDataException($"a member registered with a {what} of {name.Length} characters; it needs 1 to {MaximumNameLength}");
        }
    }

    private static void CheckPort(int port)
    {
        if (port is < 1 or > 65535) throw new InvalidDataException($"a server registered with port {port}; it needs 1 to 65535");
    }
}
