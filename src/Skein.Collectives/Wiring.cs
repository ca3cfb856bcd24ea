using System.Globalization;
using System.Text;
using Skein.Collectives.Transports;
using Skein.Collectives.Transports.Emulated;
using Skein.Collectives.Transports.Mpi;
using Skein.Collectives.Transports.SharedMemory;
using Skein.Collectives.Transports.Tcp;

namespace Skein.Collectives;

/// <summary>How the ranks of one group are connected: the transport that was chosen and what runs on it.</summary>
internal sealed class Wiring : IDisposable
{
    /// <summary>About what the second cache level holds: smaller chunks stay dirty in the writer's cache, where reading them is slow.</summary>
    private const int StagingBytes = 1024 * 1024;

    private const double InlineSpinSeconds = 2e-3;
    private const double BackgroundSpinSeconds = 5e-6;
    private const int CrowdedYields = 64;

    private readonly Patience patience;
    private readonly SharedSegment? segment;

    private Wiring(Job job, string context, int[] members, Transport transport, Transport messages, SharedSegment? segment, SharedLayout? layout)
    {
        Transport = transport;
        Messages = messages;
        this.segment = segment;
        // The job's other groups want the cores too.
        IsCrowded = job.Addresses.Count(address => address.HostId == job.Addresses[job.Rank].HostId) > Environment.ProcessorCount;
        patience = new Patience(job, IdOf(context), context, members) { Yields = IsCrowded ? CrowdedYields : 0 };
        Links = new Links(transport, patience, members, job.Options.Timeout);
        All = [.. Enumerable.Range(0, members.Length)];
        if (transport is SharedMemoryTransport shared)
        {
            Regions = new SharedRegions(members.Length);
            Direct = new DirectMemory(shared, layout!, Regions, patience, members);
        }
    }

    public Transport Transport { get; }

    /// <summary>A second set of streams, for messages between two ranks, which keep no order with the collectives.</summary>
    public Transport Messages { get; }

    public Links Links { get; }

    /// <summary>The ranks of the group: 0, 1, 2, …</summary>
    public int[] All { get; }

    /// <summary>Not null when all ranks share memory.</summary>
    public DirectMemory? Direct { get; }

    public SharedRegions? Regions { get; }

    /// <summary>Whether this host has more ranks of the job than cores, so that who spins takes a core from another.</summary>
    public bool IsCrowded { get; }

    public long BytesSent => Links.BytesSent + (Direct?.BytesSent ?? 0);

    /// <summary>A number for the group that is the same on all its ranks (FNV-1a of its name).</summary>
    public static uint IdOf(string context)
    {
        uint hash = 2166136261;
        foreach (char c in context) hash = (hash ^ c) * 16777619;
        return hash;
    }

    public static async Task<Wiring> ConnectAsync(Job job, string context, int[] members)
    {
        int rank = Array.IndexOf(members, job.Rank);
        string host = job.Addresses[job.Rank].HostId;
        bool[] local = Array.ConvertAll(members, member => job.Addresses[member].HostId == host);
        int locals = local.Count(isLocal => isLocal);
        TransportKind kind = job.Options.Transport;
        if (kind is TransportKind.SharedMemory or TransportKind.InProcess && locals < members.Length)
        {
            int other = members[Array.IndexOf(local, false)];
            throw new RendezvousException(
                $"the shared-memory transport needs all ranks on one host, but rank {other} is not on the host of rank {job.Rank}; use auto or tcp");
        }

        if (kind == TransportKind.Tcp || (kind == TransportKind.Auto && locals == 1))
        {
            return new Wiring(job, context, members, Tcp(job, context, members, rank), Tcp(job, $"{context}/messages", members, rank), null, null);
        }

        if (kind == TransportKind.Mpi)
        {
            OpenMpi mpi = MpiRendezvous.Join(job.Options);
            int tag = await MpiTagAsync(job, context, members[0], mpi.LargestTag).ConfigureAwait(false);
            return new Wiring(
                job, context, members, new MpiTransport(rank, members, mpi, tag), new MpiTransport(rank, members, mpi, tag + 1), null, null);
        }

        (SharedSegment segment, SharedLayout layout) = await MapAsync(job, context, members, local).ConfigureAwait(false);
        int next = 0;
        int[] slots = Array.ConvertAll(local, isLocal => isLocal ? next++ : -1);
        string name = kind == TransportKind.InProcess ? "in-process" : "shm";
        var transport = new SharedMemoryTransport(rank, slots, segment, layout, 0, name);
        var messages = new SharedMemoryTransport(rank, slots, segment, layout, 1, name);
        return locals == members.Length
            ? new Wiring(job, context, members, transport, messages, segment, layout)
            : new Wiring(
                job, context, members,
                new RoutedTransport(transport, Tcp(job, context, members, rank), local),
                new RoutedTransport(messages, Tcp(job, $"{context}/messages", members, rank), local),
                segment, layout);
    }

    /// <summary>To be called before each collective: <paramref name="inline"/> when the caller's thread runs it.</summary>
    public void Begin(in CallSignature signature, bool inline)
    {
        patience.Call = signature;
        // A caller that waits itself has nothing better to do than to spin; a background thread would take the core
        // from the computation that it runs beside.
        double spin = IsCrowded ? 0 : inline ? InlineSpinSeconds : BackgroundSpinSeconds;
        patience.SpinTicks = (long)(spin * System.Diagnostics.Stopwatch.Frequency);
        Links.Begin(signature);
    }

    /// <summary>To be called once all ranks are connected.</summary>
    public void Seal() => segment?.Seal();

    public void Dispose()
    {
        Links.Dispose();
        Transport.Dispose();
        Messages.Dispose();
        Regions?.Dispose();
        segment?.Dispose();
    }

    /// <summary>A pair of tags that no other group of the job uses.</summary>
    private static async Task<int> MpiTagAsync(Job job, string context, int leader, int largest)
    {
        string key = $"{job.Name}/{context}/tag";
        if (job.Rank == leader)
        {
            long made = await job.Store!.AddAsync($"{job.Name}/tags", 2).ConfigureAwait(false);
            await job.Store.SetAsync(key, BitConverter.GetBytes(made)).ConfigureAwait(false);
        }

        long tag = BitConverter.ToInt64(await job.GetAsync(key, leader).ConfigureAwait(false));
        return tag + 1 < largest
            ? (int)tag
            : throw new RendezvousException($"the job has made {tag / 2:N0} groups, more than MPI has tags for; reuse groups, or use another transport");
    }

    private static Transport Tcp(Job job, string context, int[] members, int rank)
    {
        var transport = new TcpTransport(rank, members.Length, (peer, timeout) => job.OpenLink(context, rank, members[peer], timeout));
        job.AcceptLinks(context, transport.Adopt);
        return job.Link is { } line ? new EmulatedTransport(transport, line) : transport;
    }

    /// <summary>The host's first rank makes the segment and publishes where it is; the others map it.</summary>
    private static async Task<(SharedSegment Segment, SharedLayout Layout)> MapAsync(Job job, string context, int[] members, bool[] local)
    {
        int locals = local.Count(isLocal => isLocal);
        var layout = new SharedLayout(locals, StagingBytes);
        int leader = members[Array.IndexOf(local, true)];
        string key = $"{job.Name}/{context}/segment/{leader}";
        if (job.Rank == leader)
        {
            SharedSegment made = SharedSegment.Create(string.Create(CultureInfo.InvariantCulture, $"skein-{job.Options.JobId}-{IdOf(context):x8}"), layout.Length);
            await job.Store!.SetAsync(key, Encoding.UTF8.GetBytes(made.Location)).ConfigureAwait(false);
            return (made, layout);
        }

        string location = Encoding.UTF8.GetString(await job.GetAsync(key, leader).ConfigureAwait(false));
        try
        {
            return (SharedSegment.Open(location, layout.Length), layout);
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            throw new RendezvousException(
                $"rank {job.Rank} cannot map the shared memory of rank {leader} ({error.Message}); if they run in different containers or as different users, set SKEIN_TRANSPORT=tcp",
                error);
        }
    }
}
