using System.Text;
using Skein.Collectives.Algorithms;
using Skein.Collectives.Rendezvous;
using Skein.Collectives.Transports;
using Skein.Collectives.Transports.SharedMemory;

namespace Skein.Collectives;

/// <summary>
/// A set of processes (ranks) that communicate: collectives over all of them, messages between two of them.
/// </summary>
/// <remarks>
/// <para>All ranks have to make the same collective calls in the same order. Each call comes in a blocking form, which
/// runs on the calling thread, and in an asynchronous form, which returns a handle; both run strictly in the order of
/// the calls. Methods may be called from any thread, but the order of calls is the caller's to keep.</para>
/// <para>After a failure the group is of no more use: every later call throws what ended the job.</para>
/// </remarks>
public sealed partial class ProcessGroup : IAsyncDisposable
{
    /// <summary>Accepts a message from any rank.</summary>
    public const int AnySource = -1;

    private readonly Job job;
    private readonly string context;
    private readonly uint id;
    private readonly int[] members;
    private readonly int[][] hosts;
    private readonly Wiring? wiring;
    private readonly CallQueue queue;
    private readonly FlightRecorder recorder;
    private readonly AlgorithmTable table;
    private readonly bool ownsJob;
    private long sequence;
    private int splits;
    private int disposing;
    private CollectiveCall? spare;
    private volatile bool disposed;

    private ProcessGroup(Job job, string context, int[] members, Wiring? wiring, AlgorithmTable table, bool ownsJob)
    {
        this.job = job;
        this.context = context;
        this.members = members;
        this.wiring = wiring;
        this.table = table;
        this.ownsJob = ownsJob;
        id = Wiring.IdOf(context);
        Rank = Array.IndexOf(members, job.Rank);
        hosts = [.. members.Select((member, rank) => (job.Addresses[member].HostId, rank))
            .GroupBy(place => place.HostId, place => place.rank).Select(host => host.ToArray())];
        int[] local = Array.Find(hosts, host => host.Contains(Rank))!;
        LocalRank = Array.IndexOf(local, Rank);
        LocalWorldSize = local.Length;
        queue = new CallQueue(Execute, $"skein {context}");
        recorder = new FlightRecorder(context);
        job.Register(recorder);
    }

    internal const string WorldName = "world";

    /// <summary>
    /// What errors and the flight recorder call the group: <c>world</c>, or for a subgroup its parent's name, which of the
    /// parent's splits it came from, counted from 0, and its color: <c>world.1:0</c>.
    /// </summary>
    public string Name => context;

    /// <summary>This process's rank, from 0 to <see cref="WorldSize"/> - 1.</summary>
    public int Rank { get; }

    /// <summary>The number of ranks.</summary>
    public int WorldSize => members.Length;

    /// <summary>This process's rank among the group's ranks on its host.</summary>
    public int LocalRank { get; }

    /// <summary>The number of the group's ranks on this host.</summary>
    public int LocalWorldSize { get; }

    /// <summary>What carries the bytes: <c>shm</c>, <c>tcp</c>, <c>shm+tcp</c>, <c>mpi</c>, <c>in-process</c>, or <c>none</c> for a single rank.</summary>
    public string TransportName => wiring?.Transport.Name ?? "none";

    /// <summary>Whether its ranks share their cores with others of the job, and so never spin.</summary>
    internal bool IsCrowded => wiring?.IsCrowded ?? false;

    /// <summary>The all-reduce algorithm as it was asked for, for example <c>auto</c>.</summary>
    public string AlgorithmName => OptionNames.Of(job.Options.Algorithm);

    /// <summary>The all-reduce algorithm that a buffer of this many elements gets, for example <c>ring</c>.</summary>
    public string AlgorithmOf<T>(int length) where T : unmanaged =>
        OptionNames.Of(AlgorithmFor((long)length * ElementTypes.Of<T>().Size()));

    /// <summary>The longest that any wait may take.</summary>
    public TimeSpan Timeout => job.Options.Timeout;

    /// <summary>Bytes that this rank has sent or, in shared memory, made readable for others, since the group began.</summary>
    public long BytesSent => wiring?.BytesSent ?? 0;

    /// <summary>Joins the job that a launcher has put this process into; without one, a group of this process alone.</summary>
    /// <param name="options">Null: from the environment that the launcher has set.</param>
    /// <param name="cancellationToken">Gives up waiting for the other ranks.</param>
    /// <exception cref="RendezvousException">The environment or the addresses are wrong; says which and what to do.</exception>
    /// <exception cref="JobAuthenticationException">The job's secret is missing or differs between ranks.</exception>
    /// <exception cref="CollectiveTimeoutException">A rank did not join in time; names it.</exception>
    public static Task<ProcessGroup> InitializeAsync(
        ProcessGroupOptions? options = null, CancellationToken cancellationToken = default) =>
        JoinAsync(options ?? LauncherEnvironment.Read(), null, cancellationToken);

    /// <summary>Makes a job whose ranks are all in this process, for tests and simulation. Each rank needs a thread of its own.</summary>
    /// <param name="worldSize">The number of ranks, at least 1.</param>
    /// <param name="template">Timeout, algorithm and transport; null for the defaults.</param>
    /// <returns>The group of each rank, in rank order; each is disposed by its rank.</returns>
    public static Task<ProcessGroup[]> CreateInProcessAsync(int worldSize, ProcessGroupOptions? template = null)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(worldSize, 1);
        template ??= new ProcessGroupOptions();
        if (template.Transport == TransportKind.Auto) template = template with { Transport = TransportKind.InProcess };
        var store = new InProcessStore();
        string jobId = $"in-process-{Guid.NewGuid():N}";
        JobSecret secret = JobSecret.Generate();
        return Task.WhenAll(Enumerable.Range(0, worldSize).Select(rank => Task.Run(() => JoinAsync(
            template with
            {
                Rank = rank,
                WorldSize = worldSize,
                LocalRank = rank,
                LocalWorldSize = worldSize,
                JobId = jobId,
                Secret = secret,
            },
            store,
            CancellationToken.None))));
    }

    /// <summary>
    /// Cuts the group into subgroups: ranks with the same <paramref name="color"/> are together, ordered by
    /// <paramref name="key"/> and then by rank. Every rank of this group has to call it, and a subgroup is disposed
    /// before the group that it came from.
    /// </summary>
    /// <returns>The subgroup, or null for a rank that gave a negative color.</returns>
    public async Task<ProcessGroup?> SplitAsync(int color, int key)
    {
        int number = splits++;
        int[] all = new int[2 * WorldSize];
        await AllGatherAsync<int>(new[] { color, key }, all);
        if (color < 0) return null;
        int[] ranks = [.. Enumerable.Range(0, WorldSize).Where(rank => all[2 * rank] == color).OrderBy(rank => all[(2 * rank) + 1]).ThenBy(rank => rank)];
        return await CreateAsync(job, $"{context}.{number}:{color}", Array.ConvertAll(ranks, rank => members[rank]), ownsJob: false).ConfigureAwait(false);
    }

    /// <summary>
    /// Memory for collectives that needs no staging copy. Collective: every rank calls it, in the same order and with
    /// the same length.
    /// </summary>
    /// <param name="length">Elements.</param>
    public SharedBuffer<T> AllocateShared<T>(int length) where T : unmanaged
    {
        ArgumentOutOfRangeException.ThrowIfNegative(length);
        ElementType type = ElementTypes.Of<T>();
        return SharedAllocation.Make<T>(this, wiring?.Regions, job, (long)length * type.Size(), length);
    }

    /// <summary>
    /// Leaves the group. On the group that joined the job rank 0 waits, within the timeout, until every rank has come
    /// this far, and the others until rank 0 has heard them, so that nobody takes an early end for a loss; after a
    /// failure nobody waits. Collectives that other threads have begun, blocking or not, end first, as they would without
    /// this; sends and receives that are not done fail with <see cref="ObjectDisposedException"/>.
    /// </summary>
    public async ValueTask DisposeAsync()
    {
        if (Interlocked.Exchange(ref disposing, 1) != 0) return;
        disposed = true;
        queue.Close();
        messages?.Dispose();
        if (ownsJob) await job.DisposeAsync().ConfigureAwait(false);
        wiring?.Dispose();
    }

    private static async Task<ProcessGroup> JoinAsync(ProcessGroupOptions options, Store? store, CancellationToken cancellationToken)
    {
        Validate(options);
        Job job = await Job.JoinAsync(options, store, cancellationToken).ConfigureAwait(false);
        try
        {
            ProcessGroup world = await CreateAsync(job, WorldName, [.. Enumerable.Range(0, options.WorldSize)], ownsJob: true).ConfigureAwait(false);
            job.AllJoined();
            return world;
        }
        catch
        {
            await job.DisposeAsync().ConfigureAwait(false);
            throw;
        }
    }

    private static void Validate(ProcessGroupOptions options)
    {
        if (options.WorldSize < 1) throw new RendezvousException($"the world size is {options.WorldSize}, but a job has at least 1 rank");
        if (options.Rank < 0 || options.Rank >= options.WorldSize)
        {
            throw new RendezvousException($"the rank is {options.Rank}, but a job of {options.WorldSize} ranks numbers them 0 to {options.WorldSize - 1}");
        }

        if (options.Timeout <= TimeSpan.Zero) throw new RendezvousException($"the timeout is {options.Timeout}, but has to be positive");
    }

    private static async Task<ProcessGroup> CreateAsync(Job job, string context, int[] members, bool ownsJob)
    {
        if (members.Length == 1)
        {
            return new ProcessGroup(job, context, members, null, AlgorithmTable.Default(true, false), ownsJob);
        }

        Wiring wiring = await Wiring.ConnectAsync(job, context, members).ConfigureAwait(false);
        try
        {
            string key = $"{job.Name}/{context}/algorithms";
            if (job.Rank == members[0])
            {
                string row = AlgorithmTable.ReadCalibrated(wiring.Transport.Name, members.Length) ?? "";
                await job.Store!.SetAsync(key, Encoding.UTF8.GetBytes(row)).ConfigureAwait(false);
            }

            string chosen = Encoding.UTF8.GetString(await job.GetAsync(key, members[0]).ConfigureAwait(false));
            // From what all ranks know: a rank that is alone on its host has another transport than the rest.
            int hostCount = members.Select(member => job.Addresses[member].HostId).Distinct().Count();
            bool routed = job.Options.Transport == TransportKind.Auto && hostCount > 1 && hostCount < members.Length;
            AlgorithmTable table = chosen.Length > 0 ? AlgorithmTable.Parse(chosen) : AlgorithmTable.Default(wiring.Direct is not null, routed);
            var group = new ProcessGroup(job, context, members, wiring, table, ownsJob);
            await group.BarrierAsync();
            wiring.Seal();
            return group;
        }
        catch
        {
            wiring.Dispose();
            throw;
        }
    }

    private void Execute(CollectiveCall call, bool inline)
    {
        var signature = CallSignature.Of(id, ++sequence, call);
        recorder.Begin(signature);
        bool failed = true;
        try
        {
            if (wiring is null) ExecuteAlone(call);
            else Execute(wiring, signature, call, inline);
            failed = false;
        }
        catch (PeerUnreachable error)
        {
            throw job.Fail(job.Unreachable(members[error.Peer], error.Message, signature.ToString()));
        }
        catch (SkeinException error)
        {
            throw job.Fail(error);
        }
        finally
        {
            recorder.End(failed);
        }
    }

    private void Execute(Wiring wiring, in CallSignature signature, CollectiveCall call, bool inline)
    {
        job.ThrowIfFailed();
        Links links = wiring.Links;
        wiring.Begin(signature, inline);
        DirectMemory? direct = wiring.Direct;
        switch (call.Kind)
        {
            case CollectiveKind.AllReduce:
                AllReduce(wiring, signature, call);
                break;
            case CollectiveKind.ReduceScatter when direct is not null:
                direct.ReduceScatter(signature, call);
                break;
            case CollectiveKind.ReduceScatter:
                Rounds.ReduceScatter(links, call);
                break;
            case CollectiveKind.AllGather when direct is not null:
                direct.AllGather(signature, call);
                break;
            case CollectiveKind.AllGather:
                Rounds.AllGather(links, call);
                break;
            case CollectiveKind.Broadcast when direct is not null:
                direct.Broadcast(signature, call);
                break;
            case CollectiveKind.Broadcast:
                Tree.Broadcast(links, call, wiring.All, call.Root);
                break;
            case CollectiveKind.Reduce:
                Tree.Reduce(links, call, wiring.All, call.Root);
                break;
            case CollectiveKind.Gather:
                Rounds.Gather(links, call);
                break;
            case CollectiveKind.Scatter:
                Rounds.Scatter(links, call);
                break;
            case CollectiveKind.AllToAll:
                Rounds.AllToAll(links, call);
                break;
            case CollectiveKind.Barrier when direct is not null:
                direct.Barrier(signature);
                break;
            default:
                Rounds.Barrier(links);
                break;
        }
    }

    private void AllReduce(Wiring wiring, in CallSignature signature, CollectiveCall call)
    {
        switch (call.Algorithm)
        {
            case AllReduceAlgorithm.Direct:
                wiring.Direct!.AllReduce(signature, call);
                break;
            case AllReduceAlgorithm.HalvingDoubling:
                HalvingDoublingAllReduce.Run(wiring.Links, call);
                break;
            case AllReduceAlgorithm.Tree:
                Tree.AllReduce(wiring.Links, call, wiring.All);
                break;
            case AllReduceAlgorithm.Hierarchical:
                Hierarchical.AllReduce(wiring.Links, call, hosts);
                break;
            default:
                RingAllReduce.Run(wiring.Links, call, wiring.All);
                break;
        }
    }

    /// <summary>A group of one: what it contributes is the result.</summary>
    private static unsafe void ExecuteAlone(CollectiveCall call)
    {
        if (call.Input is null || call.Output is null || call.Input == call.Output) return;
        long count = call.Kind == CollectiveKind.AllToAll ? call.SendCounts[0] : call.Count;
        Rounds.Copy(call.Output, call.Input, (nint)(count * call.ElementSize));
    }

    private AllReduceAlgorithm AlgorithmFor(long bytes)
    {
        if (wiring is null) return AllReduceAlgorithm.Auto;
        AllReduceAlgorithm asked = job.Options.Algorithm;
        AllReduceAlgorithm chosen = asked == AllReduceAlgorithm.Auto ? table.Choose(bytes) : asked;
        return chosen == AllReduceAlgorithm.Direct && wiring.Direct is null
            ? throw new InvalidOperationException(
                $"the direct algorithm needs shared memory between all ranks, but this group uses {TransportName}; choose ring, halving-doubling, tree or hierarchical")
            : chosen;
    }
}
