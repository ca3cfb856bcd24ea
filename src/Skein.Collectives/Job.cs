using System.Collections.Concurrent;
using System.Diagnostics;
using System.Globalization;
using System.Net;
using System.Net.Sockets;
using System.Runtime.InteropServices;
using System.Text;
using System.Text.Json;
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
    private readonly PosixSignalRegistration? quitSignal;
    private readonly CancellationTokenSource failed = new();
    private JobFailure? failure;

    private Job(
        ProcessGroupOptions options, string name, Store? store, TcpStoreServer? server, AuthenticatedListener? listener,
        Lifeline? lifeline, RankAddress[] addresses)
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

        if (!OperatingSystem.IsWindows())
        {
            quitSignal = PosixSignalRegistration.Create(PosixSignal.SIGQUIT, context =>
            {
                context.Cancel = true;
                DumpFlightRecorders();
            });
        }
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
            return new Job(options, options.JobId, null, null, null, null, [new RankAddress(host, "127.0.0.1", 0)]) { TimeoutTicks = ticks };
        }

        TcpStoreServer? server = null;
        if (givenStore is null && MpiRendezvous.Applies(options)) (options, server) = MpiRendezvous.Meet(options);
        JobSecret secret = options.Secret ?? throw new JobAuthenticationException(
            $"rank {options.Rank} of {options.WorldSize} has no job secret: start the job with 'skein launch', or set SKEIN_JOB_SECRET "
            + "(or SKEIN_JOB_SECRET_FILE) to the same value for every rank; make one with: openssl rand -hex 32");
        string name = $"{options.JobId}/{Joins.AddOrUpdate((options.JobId, options.Rank), 0, (_, joined) => joined + 1)}";
        AuthenticatedListener? listener = null;
        Store? store = givenStore;
        Lifeline? lifeline = null;
        try
        {
            if (store is null && server is null && options.RedisStore is null && options.Rank == 0 && !options.StoreHostedByLauncher)
            {
                server = TcpStoreServer.Start(
                    new IPEndPoint(await BindAddressAsync(options, cancellationToken).ConfigureAwait(false), options.MasterPort), secret, options.Logger);
            }

            store ??= options.RedisStore is { } redis
                ? await RedisStore.ConnectAsync(redis, options.JobId, options.Timeout, cancellationToken).ConfigureAwait(false)
                : await TcpStore.ConnectAsync(options.MasterAddress, options.MasterPort, secret, options.Timeout, cancellationToken).ConfigureAwait(false);
            listener = AuthenticatedListener.Start(
                new IPEndPoint(await BindAddressAsync(options, cancellationToken).ConfigureAwait(false), 0), secret, options.Logger);
            if (options.Rank == 0) lifeline = Lifeline.Host(listener, options.WorldSize);
            var mine = new RankAddress(host, listener.Endpoint.Address.ToString(), listener.Endpoint.Port);
            await store.SetAsync($"{name}/rank/{options.Rank}", mine.Encode(), cancellationToken).ConfigureAwait(false);
            var addresses = new RankAddress[options.WorldSize];
            for (int rank = 0; rank < addresses.Length; rank++)
            {
                addresses[rank] = RankAddress.Decode(await GetAsync(store, options, $"{name}/rank/{rank}", rank, cancellationToken).ConfigureAwait(false));
            }

            lifeline ??= await Lifeline.ConnectAsync(
                addresses[0].Host, addresses[0].Port, options.Rank, options.WorldSize, secret, options.Timeout, cancellationToken).ConfigureAwait(false);
            return new Job(options, name, store, server, listener, lifeline, addresses) { TimeoutTicks = ticks };
        }
        catch
        {
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
            lifeline?.ReportFailure(kind, error.Message);
            known = new JobFailure(kind, Rank, error.Message);
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

    /// <summary>Says goodbye and closes. Waits, within limits, until all ranks have come this far, unless the job has failed.</summary>
    public async ValueTask DisposeAsync()
    {
        quitSignal?.Dispose();
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
            throw new CollectiveTimeoutException(string.Create(
                CultureInfo.InvariantCulture,
                $"rank {options.Rank} waited {options.Timeout.TotalSeconds:0.###} s for rank {rank} to join the job of {options.WorldSize} ranks; was it started, and does it reach {options.MasterAddress}:{options.MasterPort}?"),
                error);
        }
    }

    private void CancelWhenFailed()
    {
        if (lifeline!.Failure is not null) failed.Cancel();
    }

    /// <summary>The address of the interface that leads to the master.</summary>
    internal static Task<IPAddress> BindAddressAsync(ProcessGroupOptions options, CancellationToken cancellationToken) =>
        LocalAddress.TowardAsync(options.MasterAddress, "MASTER_ADDR", cancellationToken);

    private string? DumpFlightRecorders()
    {
        string path = Path.Combine(Options.FlightRecorderDirectory ?? Path.GetTempPath(), $"flight-recorder-rank-{Rank}.json");
        try
        {
            FlightRecorder[] all;
            lock (recorders) all = [.. recorders];
            using var stream = new FileStream(path, FileMode.Create);
            using var json = new Utf8JsonWriter(stream, new JsonWriterOptions { Indented = true });
            json.WriteStartArray();
            foreach (FlightRecorder recorder in all) recorder.Write(json);
            json.WriteEndArray();
            return path;
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            Options.Logger.LogWarning("cannot write the flight recorder to {Path}: {Message}", path, error.Message);
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
