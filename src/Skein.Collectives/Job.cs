using System.Collections.Concurrent;
using System.Diagnostics;
using System.Globalization;
using System.Net;
using System.Net.Sockets;
using System.Text;
using Microsoft.Extensions.Logging;
using Skein.Collectives.Rendezvous;
using Skein.Collectives.Transports.Emulated;
using Skein.Collectives.Transports.Mpi;

namespace Skein.Collectives;

/// <summary>
/// This process's membership in a job, shared by its process groups: the store, the listener that the other ranks
/// connect to, the lifeline, and what is known of the other ranks. Thread-safe.
/// </summary>
internal sealed class Job : IAsyncDisposable
{
    private static readonly ConcurrentDictionary<(string Job, int Rank), int> Joins = new();

    private readonly AuthenticatedListener? listener;
    private readonly TcpStoreServer? server;
    private readonly Lifeline? lifeline;
    private readonly LinkAcceptor acceptor = new();
    private readonly List<FlightRecorder> recorders = [];
    private readonly QuitSignal quitSignal;
    private readonly string dumpPath;
    private readonly CancellationTokenSource failed = new();
    private readonly CancellationTokenSource joining;
    private JobFailure? failure;

    private Job(
        ProcessGroupOptions options, string name, Store? store, TcpStoreServer? server, AuthenticatedListener? listener,
        Lifeline? lifeline, RankAddress[] addresses, QuitSignal quitSignal, CancellationTokenSource joining)
    {
        Options = options;
        Name = name;
        Store = store;
        Addresses = addresses;
        this.server = server;
        this.listener = listener;
        this.lifeline = lifeline;
        if (options.Emulation is { } network) Link = new EmulatedLink(network);
        listener?.Register(ConnectionPurpose.Link, acceptor.AcceptAsync);
        if (lifeline is not null)
        {
            lifeline.Changed += CancelWhenFailed;
            CancelWhenFailed();
        }

        dumpPath = FlightRecorder.PathOf(options.FlightRecorderDirectory, options.Rank);
        this.joining = joining;
        this.quitSignal = quitSignal;
        quitSignal.Serve(() =>
        {
            if (DumpFlightRecorders() is { } path) options.Logger.LogWarning("rank {Rank} wrote its flight recorder to {Path}", Rank, path);
        });
    }

    public ProcessGroupOptions Options { get; }

    /// <summary>Sets this membership's keys in the store apart from those of others.</summary>
    public string Name { get; }

    /// <summary>The job's store; null when the job has one rank.</summary>
    public Store? Store { get; }

    /// <summary>Where each rank is, by rank.</summary>
    public RankAddress[] Addresses { get; }

    /// <summary>The line by which this rank's bytes leave, where a slower network is emulated; else null.</summary>
    public EmulatedLink? Link { get; }

    public int Rank => Options.Rank;

    public int WorldSize => Options.WorldSize;

    public long TimeoutTicks { get; private init; }

    public static async Task<Job> JoinAsync(ProcessGroupOptions options, Store? givenStore, CancellationToken cancellationToken)
    {
        if (options.Emulation is not null)
        {
            if (options.Transport is not (TransportKind.Auto or TransportKind.Tcp))
            {
                throw new RendezvousException($"a slower network is emulated over tcp only, and the transport is {options.Transport}: use auto or tcp");
            }

            options = options with { Transport = TransportKind.Tcp };
        }

        long ticks = (long)(options.Timeout.TotalSeconds * Stopwatch.Frequency);
        string host = options.HostId ?? RankAddress.LocalHostId();
        if (options.WorldSize == 1)
        {
            RankAddress[] alone = [new RankAddress(host, "127.0.0.1", 0)];
            return new Job(options, options.JobId, null, null, null, null, alone, new QuitSignal(), new CancellationTokenSource())
            {
                TimeoutTicks = ticks,
            };
        }

        var quitSignal = new QuitSignal();
        var joining = new CancellationTokenSource();
        TcpStoreServer? server = null;
        if (givenStore is null && MpiRendezvous.Applies(options)) (options, server) = MpiRendezvous.Meet(options);
        if (givenStore is null && AgentRendezvous.Applies(options))
        {
            (options, server) = await AgentRendezvous.MeetAsync(options, cancellationToken).ConfigureAwait(false);
        }

        if (givenStore is null && server is null && options is { RedisStore: null, MasterPort: 0 })
        {
            throw new RendezvousException(
                $"rank {options.Rank} of {options.WorldSize} has no MASTER_PORT: set MASTER_ADDR and MASTER_PORT to where rank 0 is to listen, "
                + "the same for every rank, or start the job with 'skein launch'");
        }

        if (options is { Encryption: true, Transport: TransportKind.Mpi } && options.LocalWorldSize < options.WorldSize)
        {
            throw new RendezvousException(
                "SKEIN_ENCRYPTION is on, but MPI carries its bytes between hosts in the clear: use --transport tcp (SKEIN_TRANSPORT)");
        }

        JobSecret secret = options.Secret ?? throw new JobAuthenticationException(
            $"rank {options.Rank} of {options.WorldSize} has no job secret: start the job with 'skein launch', or set SKEIN_JOB_SECRET "
            + "(or SKEIN_JOB_SECRET_FILE) to the same value for every rank; make one with: openssl rand -hex 32");
        secret = secret.WithEncryption(options.Encryption || secret.Encrypts);
        options = options with { Secret = secret };
        string name = Roster.Membership(options.JobId, Joins.AddOrUpdate((options.JobId, options.Rank), 0, (_, joined) => joined + 1));
        AuthenticatedListener? listener = null;
        Store? store = givenStore;
        Lifeline? lifeline = null;
        try
        {
            (IPAddress here, options) = await FindAddressAsync(options, cancellationToken).ConfigureAwait(false);
            if (store is null && server is null && options.RedisStore is null && options.Rank == 0 && !options.StoreHostedByLauncher)
            {
                server = TcpStoreServer.Start(new IPEndPoint(here, options.MasterPort), secret, options.Logger);
            }

            store ??= options.RedisStore is { } redis
                ? await RedisStore.ConnectAsync(redis, options.JobId, options.Timeout, cancellationToken).ConfigureAwait(false)
                : await TcpStore.ConnectAsync(options.MasterAddress, options.MasterPort, secret, options.Timeout, cancellationToken).ConfigureAwait(false);
            if (options.RedisStore is not null && givenStore is null)
            {
                name = await MeetAsync(options, store, name, joining.Token, cancellationToken).ConfigureAwait(false);
            }

            listener = AuthenticatedListener.Start(new IPEndPoint(here, 0), secret, options.Logger);
            if (options.Rank == 0) lifeline = Lifeline.Host(listener, options.WorldSize);
            var mine = new RankAddress(host, listener.Endpoint.Address.ToString(), listener.Endpoint.Port);
            await store.SetAsync(Roster.Key(name, options.Rank), mine.Encode(), cancellationToken).ConfigureAwait(false);
            var addresses = new RankAddress[options.WorldSize];
            for (int rank = 0; rank < addresses.Length; rank++)
            {
                addresses[rank] = Roster.Read(
                    await GetAsync(store, options, Roster.Key(name, rank), rank, cancellationToken).ConfigureAwait(false), rank);
            }

            lifeline ??= await ConnectLifelineAsync(options, name, store, secret, addresses[0], cancellationToken).ConfigureAwait(false);
            var job = new Job(options, name, store, server, listener, lifeline, addresses, quitSignal, joining) { TimeoutTicks = ticks };
            if (options.Rank == 0) _ = job.ReportThoseWhoCannotJoinAsync();
            return job;
        }
        catch
        {
            quitSignal.Dispose();
            await joining.CancelAsync().ConfigureAwait(false);
            if (lifeline is not null) await lifeline.DisposeAsync().ConfigureAwait(false);
            if (listener is not null) await listener.DisposeAsync().ConfigureAwait(false);
            if (store is not null && givenStore is null) await store.DisposeAsync().ConfigureAwait(false);
            if (server is not null) await server.DisposeAsync().ConfigureAwait(false);
            throw;
        }
    }

    /// <summary>Waits for what another rank puts into the store; the error names that rank.</summary>
    /// <exception cref="SkeinException">It did not come in time, or the job failed meanwhile.</exception>
    public async Task<byte[]> GetAsync(string key, int rank)
    {
        try
        {
            return await GetAsync(Store!, Options, key, rank, failed.Token).ConfigureAwait(false);
        }
        catch (OperationCanceledException)
        {
            ThrowIfFailed();
            throw;
        }
    }

    public PeerState StateOf(int rank) => lifeline?.StateOf(rank) ?? PeerState.Alive;

    /// <exception cref="SkeinException">The job has failed, here or elsewhere.</exception>
    public void ThrowIfFailed()
    {
        if ((failure ?? lifeline?.Failure) is { } known) throw known.ToException();
    }

    public void ReportWaiting(uint group, in CallSignature signature) => lifeline?.ReportWaiting(
        new WaitReport(Rank, (int)group, signature.Sequence, signature.Bytes.ToArray(), signature.ToString()));

    /// <summary>Ends the job: every rank's next or waiting call fails, and the flight recorders are dumped.</summary>
    /// <returns>The error to throw: what ended the job first, as far as is known here.</returns>
    public SkeinException Fail(Exception error)
    {
        JobFailure? known = failure ?? lifeline?.Failure;
        if (known is null)
        {
            var kind = error switch
            {
                PeerLostException => FailureKind.PeerLost,
                CollectiveMismatchException => FailureKind.Mismatch,
                CollectiveTimeoutException => FailureKind.Timeout,
                _ => FailureKind.Aborted,
            };
            known = new JobFailure(kind, Rank, error.Message);
            if (kind == FailureKind.Timeout && lifeline is not null) known = lifeline.ReportTimeout(error.Message);
            else lifeline?.ReportFailure(kind, error.Message);
        }

        bool first = Interlocked.CompareExchange(ref failure, known, null) is null;
        if (first)
        {
            string? dump = DumpFlightRecorders();
            // Whoever catches the error shows it; this says where to look next.
            Options.Logger.LogInformation("rank {Rank} failed: {Message}; its flight recorder is in {Path}", Rank, known.Message, dump);
        }

        return error is SkeinException own && own.Message == known.Message ? own : known.ToException();
    }

    /// <summary>A stream broke: waits briefly for the lifeline to say why, since it knows who died.</summary>
    public SkeinException Unreachable(int rank, string reason, string call)
    {
        long patience = Stopwatch.GetTimestamp() + (Stopwatch.Frequency / 2);
        using var changed = new ManualResetEventSlim();
        if (lifeline is not null)
        {
            lifeline.Changed += changed.Set;
            while (lifeline.Failure is null && lifeline.StateOf(rank) == PeerState.Alive && Stopwatch.GetTimestamp() < patience)
            {
                changed.Wait(20);
                changed.Reset();
            }

            lifeline.Changed -= changed.Set;
            if (lifeline.Failure is { } known) return known.ToException();
        }

        string what = StateOf(rank) == PeerState.Left ? "left the job" : $"was lost ({reason})";
        return new PeerLostException($"rank {rank} {what} while rank {Rank} needed it in {call}");
    }

    public void Register(FlightRecorder recorder)
    {
        lock (recorders) recorders.Add(recorder);
    }

    /// <summary>Connects to a rank's listener for a stream of a group.</summary>
    public Socket OpenLink(string group, int from, int toGlobalRank, TimeSpan timeout)
    {
        RankAddress address = Addresses[toGlobalRank];
        byte[] hello = LinkAcceptor.Hello(group, from);
        // A rank that is gone refuses every attempt: no need to try until the timeout.
        using var gone = CancellationTokenSource.CreateLinkedTokenSource(failed.Token);
        lifeline!.Changed += CancelWhenGone;
        try
        {
            CancelWhenGone();
            return AuthenticatedConnection.ConnectAsync(
                address.Host, address.Port, Options.Secret!, ConnectionPurpose.Link, hello, timeout, gone.Token).GetAwaiter().GetResult();
        }
        catch (Exception error) when (error is RendezvousException or OperationCanceledException)
        {
            throw Unreachable(toGlobalRank, error.Message, $"connecting for group {group}");
        }
        finally
        {
            lifeline.Changed -= CancelWhenGone;
        }

        void CancelWhenGone()
        {
            if (StateOf(toGlobalRank) == PeerState.Alive) return;
            try
            {
                gone.Cancel();
            }
            catch (ObjectDisposedException)
            {
                // The connection was made, or given up, while the event was under way.
            }
        }
    }

    /// <summary>From now on, connections that other ranks open for this group go to <paramref name="adopt"/>.</summary>
    public void AcceptLinks(string group, Action<int, Socket> adopt) => acceptor.Serve(group, adopt);

    /// <summary>To be called once all ranks are connected: nobody can fail to join any more.</summary>
    public void AllJoined()
    {
        joining.Cancel();
        if (Rank == 0) AgentRendezvous.Forget(Options);
    }

    /// <summary>Says goodbye and closes. Waits, within limits, until all ranks have come this far, unless the job has failed.</summary>
    public async ValueTask DisposeAsync()
    {
        await joining.CancelAsync().ConfigureAwait(false);
        quitSignal.Dispose();
        if (lifeline is not null)
        {
            try
            {
                TimeSpan limit = failure is null && lifeline.Failure is null ? Options.Timeout : TimeSpan.FromSeconds(2);
                await lifeline.LeaveAsync(limit).ConfigureAwait(false);
            }
            catch (SkeinException error)
            {
                Options.Logger.LogWarning("rank {Rank} left the job without its peers' goodbye: {Message}", Rank, error.Message);
            }

            await lifeline.DisposeAsync().ConfigureAwait(false);
        }

        if (listener is not null) await listener.DisposeAsync().ConfigureAwait(false);
        acceptor.Dispose();
        if (Store is RedisStore redis) await redis.RemoveOwnKeysAsync().ConfigureAwait(false);
        if (Store is not null and not InProcessStore) await Store.DisposeAsync().ConfigureAwait(false);
        if (server is not null) await server.DisposeAsync().ConfigureAwait(false);
    }

    private static async Task<byte[]> GetAsync(
        Store store, ProcessGroupOptions options, string key, int rank, CancellationToken cancellationToken)
    {
        try
        {
            return await store.GetAsync(key, options.Timeout, cancellationToken).ConfigureAwait(false);
        }
        catch (CollectiveTimeoutException error)
        {
            throw DidNotJoin(options, rank, error);
        }
    }

    private static CollectiveTimeoutException DidNotJoin(ProcessGroupOptions options, int rank, CollectiveTimeoutException error)
    {
        string advice = options.RedisStore is null
            ? string.Create(CultureInfo.InvariantCulture, $"does it reach {options.MasterAddress}:{options.MasterPort}?")
            : $"has it the same SKEIN_REDIS_STORE, and the job id '{options.JobId}'?";
        return new CollectiveTimeoutException(string.Create(
            CultureInfo.InvariantCulture,
            $"rank {options.Rank} waited {options.Timeout.TotalSeconds:0.###} s for rank {rank} to join the job of {options.WorldSize} ranks; ")
            + $"was it started, and {advice}",
            error);
    }

    // A store that outlives jobs holds what earlier ones left under the same id.
    private static async Task<string> MeetAsync(
        ProcessGroupOptions options, Store store, string name, CancellationToken joining, CancellationToken cancellationToken)
    {
        if (options.Rank == 0)
        {
            string own = Meeting.NewName();
            _ = Meeting.HostAsync(store, name, options.WorldSize, own, joining);
            return $"{name}-{own}";
        }

        try
        {
            return $"{name}-{await Meeting.AttendAsync(store, name, options.Rank, options.Timeout, cancellationToken).ConfigureAwait(false)}";
        }
        catch (CollectiveTimeoutException error)
        {
            throw DidNotJoin(options, 0, error);
        }
    }

    // The others wait for a rank that cannot reach rank 0; without a lifeline it can tell them only through the store.
    private static async Task<Lifeline> ConnectLifelineAsync(
        ProcessGroupOptions options, string name, Store store, JobSecret secret, RankAddress hub, CancellationToken cancellationToken)
    {
        try
        {
            return await Lifeline.ConnectAsync(
                hub.Host, hub.Port, options.Rank, options.WorldSize, secret, options.Timeout, cancellationToken).ConfigureAwait(false);
        }
        catch (RendezvousException error)
        {
            await store.SetAsync($"{name}/cannot-join", Encoding.UTF8.GetBytes(error.Message), cancellationToken).ConfigureAwait(false);
            throw;
        }
    }

    private async Task ReportThoseWhoCannotJoinAsync()
    {
        try
        {
            byte[] message = await Store!.GetAsync($"{Name}/cannot-join", Options.Timeout, joining.Token).ConfigureAwait(false);
            lifeline!.ReportFailure(FailureKind.Aborted, Encoding.UTF8.GetString(message));
        }
        catch (Exception error) when (error is SkeinException or OperationCanceledException or ObjectDisposedException)
        {
            // All have joined, or the job ended in another way.
        }
    }

    private void CancelWhenFailed()
    {
        if (lifeline!.Failure is not null) failed.Cancel();
    }

    /// <summary>Where this rank listens, and the options by which it reaches the master from its host.</summary>
    internal static async Task<(IPAddress Address, ProcessGroupOptions Options)> FindAddressAsync(
        ProcessGroupOptions options, CancellationToken cancellationToken)
    {
        ListenAddress here = await ListenAddress.FindAsync(
            options.MasterAddress, options.LocalWorldSize == options.WorldSize, options.MasterAddressSetting, cancellationToken).ConfigureAwait(false);
        return (here.Address, options with { MasterAddress = here.Master });
    }

    private string? DumpFlightRecorders()
    {
        try
        {
            FlightRecorder[] all;
            lock (recorders) all = [.. recorders];
            FlightRecorder.Write(all, dumpPath);
            return dumpPath;
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            Options.Logger.LogWarning("cannot write the flight recorder to {Path}: {Message}", dumpPath, error.Message);
            return null;
        }
    }
}

/// <summary>Where a rank runs and listens.</summary>
/// <param name="HostId">Equal for ranks that can share memory.</param>
/// <param name="Host">The listener's address.</param>
/// <param name="Port">The listener's port.</param>
internal sealed record RankAddress(string HostId, string Host, int Port)
{
    /// <summary>This machine since it booted; containers that see other processes are another host.</summary>
    public static string LocalHostId()
    {
        if (!OperatingSystem.IsLinux()) return Environment.MachineName;
        string boot = File.ReadAllText("/proc/sys/kernel/random/boot_id").Trim();
        return $"{boot}-{new FileInfo("/proc/self/ns/pid").LinkTarget}";
    }

    public byte[] Encode() => Encoding.UTF8.GetBytes($"{HostId}|{Host}|{Port}");

    public static RankAddress Decode(byte[] bytes)
    {
        string[] parts = Encoding.UTF8.GetString(bytes).Split('|');
        return parts.Length == 3 && int.TryParse(parts[2], out int port)
            ? new RankAddress(parts[0], parts[1], port)
            : throw new RendezvousException("the store holds a malformed rank address; is another version of Skein in this job?");
    }
}
