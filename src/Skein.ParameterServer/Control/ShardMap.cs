namespace Skein.ParameterServer.Control;

/// <summary>
/// Which server holds which shard. In the order in which they register, servers become the shards' primaries and then
/// their backups; a primary that is lost is replaced by its backup at once. Not thread-safe.
/// </summary>
internal sealed class ShardMap(int shards, int replicas)
{
    private readonly List<Member> servers = [];
    private readonly Member?[] primaries = new Member?[shards];
    private readonly Member?[] backups = new Member?[shards];
    private readonly long[] generations = new long[shards];

    /// <summary>Increases at every change.</summary>
    public long Generation { get; private set; }

    /// <summary>Every server that ever registered.</summary>
    public IReadOnlyList<Member> Servers => servers;

    /// <summary>The number of servers that the job needs.</summary>
    public int Expected => shards * replicas;

    /// <summary>Whether all of them have registered.</summary>
    public bool IsReady => servers.Count == Expected;

    /// <summary>What the members see of it.</summary>
    public ShardView[] View =>
    [
        .. from shard in Enumerable.Range(0, shards)
           where primaries[shard] is not null
           select new ShardView(shard, generations[shard], Describe(primaries[shard]!), backups[shard] is { } backup ? Describe(backup) : null),
    ];

    /// <summary>Gives a server its place.</summary>
    /// <exception cref="ParameterServerException">There are enough.</exception>
    public Member Add(ServerRegistration registration, TimeSpan now)
    {
        if (IsReady)
        {
            throw new ParameterServerException(
                $"process {registration.ProcessId} on {registration.HostName} cannot join as a server: all {Expected} servers of this job have registered");
        }

        int id = servers.Count;
        int shard = id % shards;
        bool isBackup = id >= shards;
        var member = new Member(id, registration, isBackup ? $"the replica of server shard {shard}" : $"server shard {shard}", now);
        servers.Add(member);
        (isBackup ? backups : primaries)[shard] = member;
        Generation++;
        return member;
    }

    /// <summary>Takes a lost server out.</summary>
    /// <returns>Why the job cannot go on without it; null when it can.</returns>
    public string? Remove(Member server, string reason)
    {
        int shard = server.Id % shards;
        if (backups[shard] == server)
        {
            backups[shard] = null;
            Generation++;
            return null;
        }

        if (backups[shard] is not { } backup)
        {
            string remedy = replicas == 1
                ? "it has no replica; start with --replicas 2, or restore its checkpoint"
                : "it has no replica (any more); restore its checkpoint";
            return $"server shard {shard} (process {server.Registration.ProcessId} on {server.Registration.HostName}) was lost and {remedy} ({reason})";
        }

        primaries[shard] = backup;
        backups[shard] = null;
        generations[shard]++;
        Generation++;
        return null;
    }

    private static ServerView Describe(Member server)
    {
        var registration = (ServerRegistration)server.Registration;
        return new ServerView(server.Id, registration.Host, registration.DataPort, registration.ControlPort, registration.ProcessId);
    }
}
