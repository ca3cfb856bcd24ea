using System.Runtime.InteropServices;
using Skein.Collectives.Reduction;

namespace Skein.Collectives.Transports;

/// <summary>
/// The streams of one call: puts the call's signature ahead of the first bytes to each peer, checks the one that
/// comes in, and moves bytes both ways at once. What the algorithms are written on. One call at a time.
/// </summary>
internal sealed unsafe class Links : IDisposable
{
    private readonly Transport transport;
    private readonly Patience patience;
    private readonly int[] members;
    private readonly int[] headerSent;
    private readonly int[] headerReceived;
    private readonly CallSignature[] incoming;
    private readonly TimeSpan timeout;
    private readonly int[] waitSend;
    private readonly int[] waitReceive;
    private readonly int pieceBytes;
    private byte* scratch;
    private nint scratchBytes;
    private byte* workspace;
    private nint workspaceBytes;
    private CallSignature signature;
    private CallSignature expected;

    public Links(Transport transport, Patience patience, int[] members, TimeSpan timeout)
    {
        this.transport = transport;
        this.patience = patience;
        this.members = members;
        this.timeout = timeout;
        pieceBytes = transport.PieceBytes;
        headerSent = new int[members.Length];
        headerReceived = new int[members.Length];
        incoming = new CallSignature[members.Length];
        waitSend = new int[members.Length];
        waitReceive = new int[members.Length];
    }

    public int Rank => transport.Rank;

    public int WorldSize => transport.WorldSize;

    /// <summary>The piece in which streams are cut, in bytes; reductions start when a piece is complete.</summary>
    public nint PieceBytes => pieceBytes;

    /// <summary>Bytes that this rank has sent since it joined, signatures included.</summary>
    public long BytesSent { get; private set; }

    public void Begin(in CallSignature call)
    {
        signature = expected = call;
        Array.Clear(headerSent);
        Array.Clear(headerReceived);
        patience.Progressed();
    }

    /// <summary>Memory for one piece, which <see cref="ExchangeReduce"/> uses too.</summary>
    public byte* Scratch => Reserve(ref scratch, ref scratchBytes, pieceBytes);

    /// <summary>Memory for whole segments, reused from call to call; it lives until the next request.</summary>
    public byte* Workspace(nint bytes) => Reserve(ref workspace, ref workspaceBytes, bytes);

    /// <summary>
    /// Sends to <paramref name="to"/> while receiving from <paramref name="from"/>; either may be -1 for nobody.
    /// Zero bytes still carry the signature.
    /// </summary>
    public void Exchange(int to, byte* send, nint sendBytes, int from, byte* receive, nint receiveBytes)
    {
        var outgoing = new Stream(to, send, sendBytes);
        var arriving = new Stream(from, receive, receiveBytes);
        Prepare(to);
        while (true)
        {
            bool moved = Send(ref outgoing, outgoing.Length);
            moved |= Receive(ref arriving);
            bool sent = Sent(outgoing), received = Received(arriving);
            if (sent && received) return;
            if (moved) patience.Progressed();
            else Idle(sent ? -1 : to, received ? -1 : from);
        }
    }

    /// <summary>Like <see cref="Exchange"/> with every other rank at once, so that the network's delay counts once.</summary>
    /// <param name="outgoing">One stream to each other rank.</param>
    /// <param name="arriving">One stream from each other rank.</param>
    /// <param name="sends">For calls whose counts differ from pair to pair: what each peer gets.</param>
    /// <param name="receives">And what comes from each.</param>
    public void ExchangeAll(Span<Stream> outgoing, Span<Stream> arriving, long[]? sends = null, long[]? receives = null)
    {
        foreach (Stream stream in outgoing) Prepare(stream.Peer);
        while (true)
        {
            bool moved = false;
            int unsent = 0, unreceived = 0;
            foreach (ref Stream stream in outgoing)
            {
                if (Sent(stream)) continue;
                if (sends is not null) Agree(sends[stream.Peer], receives![stream.Peer]);
                moved |= Send(ref stream, stream.Length);
                if (!Sent(stream)) waitSend[unsent++] = stream.Peer;
            }

            foreach (ref Stream stream in arriving)
            {
                if (Received(stream)) continue;
                if (sends is not null) Agree(sends[stream.Peer], receives![stream.Peer]);
                moved |= Receive(ref stream);
                if (!Received(stream)) waitReceive[unreceived++] = stream.Peer;
            }

            if (unsent + unreceived == 0) return;
            if (moved) patience.Progressed();
            else Idle(waitSend.AsSpan(0, unsent), waitReceive.AsSpan(0, unreceived));
        }
    }

    public void Send(int to, byte* bytes, nint length) => Exchange(to, bytes, length, -1, null, 0);

    public void Receive(int from, byte* bytes, nint length) => Exchange(-1, null, 0, from, bytes, length);

    /// <summary>
    /// Sends like <see cref="Exchange"/>, and combines what arrives into <paramref name="accumulator"/> piece by
    /// piece, so that the reduction overlaps with the transfer.
    /// </summary>
    public void ExchangeReduce(
        int to, byte* send, nint sendBytes, int from, byte* accumulator, nint receiveBytes, CollectiveCall call, int own, int arrivingRanks)
    {
        var outgoing = new Stream(to, send, sendBytes);
        var arriving = new Stream(from, Scratch, receiveBytes) { Wraps = true };
        Prepare(to);
        while (true)
        {
            bool moved = Send(ref outgoing, outgoing.Length);
            nint before = arriving.Done;
            moved |= Receive(ref arriving);
            if (arriving.Done != before && arriving.AtPieceEnd(pieceBytes))
            {
                nint start = (arriving.Done - 1) / pieceBytes * pieceBytes;
                Accumulate(call, accumulator + start, scratch, arriving.Done - start, own, arrivingRanks);
            }

            bool sent = Sent(outgoing), received = Received(arriving);
            if (sent && received) return;
            if (moved) patience.Progressed();
            else Idle(sent ? -1 : to, received ? -1 : from);
        }
    }

    /// <summary>Combines two partial results; when all ranks are in, an average is divided by their number.</summary>
    /// <param name="call">Says how.</param>
    /// <param name="accumulator">A partial result, replaced.</param>
    /// <param name="operand">The partial result of other ranks.</param>
    /// <param name="bytes">As long is each.</param>
    /// <param name="own">How many ranks the accumulator stands for.</param>
    /// <param name="arriving">How many the operand stands for.</param>
    public void Accumulate(CollectiveCall call, byte* accumulator, byte* operand, nint bytes, int own, int arriving)
    {
        nint count = bytes / call.ElementSize;
        if (call is { Operation: ReduceOperation.Average, Type: ElementType.Float16 or ElementType.BFloat16 })
        {
            HalfAverage.Accumulate(call.Type, (ushort*)accumulator, (ushort*)operand, count, own, arriving, WorldSize);
            return;
        }

        int divisor = own + arriving == WorldSize ? call.Divisor(WorldSize) : 1;
        ReductionKernels.Accumulate(call.Type, call.Operation, accumulator, operand, count, divisor);
    }

    public void Prepare(int peer)
    {
        if (peer >= 0) transport.Connect(peer, timeout);
    }

    /// <summary>Moves what goes now of the stream's first <paramref name="available"/> bytes; returns whether any did.</summary>
    public bool Send(ref Stream stream, nint available)
    {
        if (stream.Peer < 0) return false;
        int header = headerSent[stream.Peer];
        nint end = Math.Min(available, stream.NextPieceEnd(pieceBytes));
        if (header == CallSignature.Size && stream.Done >= end) return false;
        var payload = new ReadOnlySpan<byte>(stream.Bytes + stream.Done, (int)(end - stream.Done));
        int moved = transport.TrySend(stream.Peer, signature.Bytes[header..], payload);
        if (moved == 0) return false;
        BytesSent += moved;
        int ofHeader = Math.Min(moved, CallSignature.Size - header);
        headerSent[stream.Peer] = header + ofHeader;
        stream.Done += moved - ofHeader;
        return true;
    }

    /// <summary>Takes what has arrived, up to the end of the current piece; returns whether anything came.</summary>
    public bool Receive(ref Stream stream)
    {
        if (stream.Peer < 0) return false;
        int header = headerReceived[stream.Peer];
        nint end = stream.NextPieceEnd(pieceBytes);
        if (header == CallSignature.Size && stream.Done >= end) return false;
        nint offset = stream.Wraps ? stream.Done % pieceBytes : stream.Done;
        var payload = new Span<byte>(stream.Bytes + offset, (int)(end - stream.Done));
        if (header == CallSignature.Size)
        {
            int got = transport.TryReceive(stream.Peer, default, payload);
            stream.Done += got;
            return got > 0;
        }

        Span<byte> theirs = MemoryMarshal.AsBytes(incoming.AsSpan(stream.Peer, 1));
        int moved = transport.TryReceive(stream.Peer, theirs[header..], payload);
        if (moved == 0) return false;
        int ofHeader = Math.Min(moved, CallSignature.Size - header);
        headerReceived[stream.Peer] = header + ofHeader;
        stream.Done += moved - ofHeader;
        if (headerReceived[stream.Peer] == CallSignature.Size) CheckAgreement(stream.Peer, incoming[stream.Peer]);
        return true;
    }

    public bool Sent(in Stream stream) =>
        stream.Peer < 0 || (stream.Done == stream.Length && headerSent[stream.Peer] == CallSignature.Size);

    public bool Received(in Stream stream) =>
        stream.Peer < 0 || (stream.Done == stream.Length && headerReceived[stream.Peer] == CallSignature.Size);

    public void Progressed() => patience.Progressed();

    /// <summary>Waits until one of the two streams may move; -1 for neither.</summary>
    public void Idle(int sendPeer, int receivePeer)
    {
        waitSend[0] = sendPeer;
        waitReceive[0] = receivePeer;
        Idle(waitSend.AsSpan(0, sendPeer >= 0 ? 1 : 0), waitReceive.AsSpan(0, receivePeer >= 0 ? 1 : 0));
    }

    private void Idle(ReadOnlySpan<int> sendPeers, ReadOnlySpan<int> receivePeers)
    {
        int milliseconds = patience.Idle(receivePeers.IsEmpty ? sendPeers[0] : receivePeers[0]);
        if (milliseconds > 0) transport.Wait(sendPeers, receivePeers, milliseconds);
    }

    /// <exception cref="CollectiveMismatchException">The peer is in another call.</exception>
    public void CheckAgreement(int peer, in CallSignature theirs)
    {
        if (theirs.Equals(expected)) return;
        throw new CollectiveMismatchException(
            $"ranks disagree on the collective: rank {members[Rank]} called {expected}, rank {members[peer]} called {theirs}; "
            + "all ranks have to make the same calls with the same arguments in the same order");
    }

    /// <summary>What a pair whose count is its own sends and expects.</summary>
    private void Agree(long sends, long receives)
    {
        signature.Count = sends;
        expected.Count = receives;
    }

    public void Dispose()
    {
        NativeMemory.AlignedFree(scratch);
        NativeMemory.AlignedFree(workspace);
        scratch = workspace = null;
        scratchBytes = workspaceBytes = 0;
    }

    private static byte* Reserve(ref byte* memory, ref nint length, nint bytes)
    {
        if (bytes > length)
        {
            NativeMemory.AlignedFree(memory);
            length = bytes;
            memory = NativePages.Allocate(bytes);
        }

        return memory;
    }

    /// <summary>One direction to or from one peer within a step, and how far it has come.</summary>
    internal struct Stream(int peer, byte* bytes, nint length)
    {
        public readonly int Peer = peer;
        public readonly byte* Bytes = bytes;
        public readonly nint Length = length;
        public nint Done;

        /// <summary>True when every piece is received at the start of the memory, to be used before the next comes.</summary>
        public bool Wraps;

        public readonly nint NextPieceEnd(nint piece) => Math.Min(Length, ((Done / piece) + 1) * piece);

        public readonly bool AtPieceEnd(nint piece) => Done == Length || Done % piece == 0;
    }
}
