using System.Buffers;
using System.Runtime.InteropServices;
using Skein.Collectives.Transports;

namespace Skein.Collectives;

/// <summary>
/// Messages between two ranks, matched by source and tag in the order they were sent, as MPI does. They keep no
/// order with the collectives. Whoever waits moves the bytes of everybody; while only asynchronous operations are
/// open, a thread of the group's own does. Thread-safe.
/// </summary>
/// <remarks>
/// A message that nobody has asked for yet is kept in memory when it arrives, so that a send never waits for its
/// receive for want of order; the sender is authenticated, and its length is bounded by what a span can hold.
/// </remarks>
internal sealed unsafe partial class MessageQueue : IDisposable
{
    private readonly object gate = new();
    private readonly Transport transport;
    private readonly Patience patience;
    private readonly Func<int, Exception, SkeinException> fail;
    private readonly TimeSpan timeout;
    private readonly Queue<Operation>[] sends;
    private readonly Arrival[] arrivals;
    private readonly List<Operation> receives = [];
    private readonly LinkedList<(int From, Envelope Envelope, byte[] Bytes)> unexpected = [];
    private Thread? thread;
    private bool driving;
    private bool closed;
    private int connecting;
    private int background;
    private SkeinException? failure;

    public MessageQueue(
        Transport transport, Patience patience, TimeSpan timeout, Func<int, Exception, SkeinException> fail)
    {
        this.transport = transport;
        this.patience = patience;
        this.timeout = timeout;
        this.fail = fail;
        sends = new Queue<Operation>[transport.WorldSize];
        arrivals = new Arrival[transport.WorldSize];
        for (int peer = 0; peer < sends.Length; peer++)
        {
            sends[peer] = new Queue<Operation>();
            arrivals[peer] = new Arrival();
        }
    }

    public Operation Send(int to, int tag, ElementType type, byte* bytes, nint length, MemoryHandle pin, CollectiveHandle? handle)
    {
        var operation = new Operation(to, tag, type, bytes, length) { IsSend = true, Handle = handle, Pin = pin };
        Connect(to);
        lock (gate)
        {
            ObjectDisposedException.ThrowIf(closed, typeof(ProcessGroup));
            sends[to].Enqueue(operation);
            Begin(operation);
        }

        return operation;
    }

    public Operation Receive(int from, int tag, ElementType type, byte* bytes, nint length, MemoryHandle pin, CollectiveHandle? handle)
    {
        var operation = new Operation(from, tag, type, bytes, length) { Handle = handle, Pin = pin };
        lock (gate)
        {
            ObjectDisposedException.ThrowIf(closed, typeof(ProcessGroup));
            receives.Add(operation);
            Begin(operation);
        }

        return operation;
    }

    /// <summary>Returns when the operation is done.</summary>
    public void Wait(Operation operation)
    {
        lock (gate)
        {
            while (!operation.IsDone)
            {
                if (driving) Monitor.Wait(gate);
                else Drive(operation);
            }
        }

        operation.ThrowIfFailed();
    }

    /// <summary>Fails what is not done, and returns when no thread uses the transport any more.</summary>
    public void Dispose()
    {
        lock (gate)
        {
            closed = true;
            End((Exception?)failure ?? new ObjectDisposedException(
                nameof(ProcessGroup), "the process group was disposed before the message was sent or received"));
            Monitor.PulseAll(gate);
            while (driving || connecting > 0) Monitor.Wait(gate);
        }

        thread?.Join();
    }

    private void Connect(int to)
    {
        lock (gate)
        {
            ObjectDisposedException.ThrowIf(closed, typeof(ProcessGroup));
            connecting++;
        }

        try
        {
            transport.Connect(to, timeout);
        }
        finally
        {
            lock (gate)
            {
                connecting--;
                Monitor.PulseAll(gate);
            }
        }
    }

    private void Begin(Operation operation)
    {
        try
        {
            if (failure is not null) throw failure;
            if (!operation.IsSend) TakeUnexpected(operation);
            Progress();
        }
        catch (Exception error) when (error is SkeinException or PeerUnreachable)
        {
            Fail(error);
        }

        if (operation.Handle is null || operation.IsDone) return;
        operation.IsBackground = true;
        background++;
        if (thread is null)
        {
            thread = new Thread(Work) { IsBackground = true, Name = "skein messages" };
            thread.Start();
        }

        Monitor.PulseAll(gate);
    }

    private void Work()
    {
        lock (gate)
        {
            while (!closed)
            {
                if (driving || background == 0) Monitor.Wait(gate);
                else Drive(null);
            }
        }
    }

    /// <summary>Moves bytes until <paramref name="until"/> is done, or for the thread one slice. Holds the gate but while it blocks.</summary>
    private void Drive(Operation? until)
    {
        driving = true;
        patience.Progressed();
        try
        {
            while (until is null ? background > 0 && !closed : !until.IsDone)
            {
                if (Progress())
                {
                    patience.Progressed();
                    continue;
                }

                Operation awaited = until ?? Open().First();
                patience.Activity = awaited.ToString();
                int milliseconds = patience.Idle(awaited.Peer);
                if (milliseconds == 0) continue;
                int[] to = [.. Enumerable.Range(0, sends.Length).Where(peer => sends[peer].Count > 0)];
                int[] from = !Open().Any(operation => !operation.IsSend) ? [] : [.. Enumerable.Range(0, sends.Length).Where(peer => peer != transport.Rank && !arrivals[peer].IsClosed)];
                Monitor.Exit(gate);
                try
                {
                    transport.Wait(to, from, milliseconds);
                }
                finally
                {
                    Monitor.Enter(gate);
                }
            }
        }
        catch (Exception error) when (error is SkeinException or PeerUnreachable)
        {
            Fail(error);
        }
        finally
        {
            driving = false;
            Monitor.PulseAll(gate);
        }
    }

    private void Fail(Exception cause)
    {
        // Whoever disposes the group has said what its operations end with.
        if (!closed) failure ??= fail(cause is PeerUnreachable lost ? lost.Peer : -1, cause);
        if (failure is not null) End(failure);
    }

    private void End(Exception error)
    {
        foreach (Operation operation in Open().ToArray()) Complete(operation, error);
        foreach (Queue<Operation> queue in sends) queue.Clear();
        foreach (Arrival arrival in arrivals) arrival.Receive = null;
        receives.Clear();
    }

    /// <summary>What is not done yet: receives that wait for a message, those into which one is arriving, and sends.</summary>
    private IEnumerable<Operation> Open() =>
        receives.Concat(arrivals.Select(arrival => arrival.Receive).OfType<Operation>()).Concat(sends.SelectMany(queue => queue));

    private void Complete(Operation operation, Exception? error = null)
    {
        operation.Finish(error);
        if (operation.IsBackground) background--;
        Monitor.PulseAll(gate);
    }

    /// <summary>Moves what goes without waiting, and returns whether anything did.</summary>
    private bool Progress()
    {
        bool moved = false;
        for (int peer = 0; peer < sends.Length; peer++)
        {
            if (peer == transport.Rank)
            {
                moved |= SendToSelf(peer);
                continue;
            }

            while (sends[peer].TryPeek(out Operation? send))
            {
                moved |= Push(send);
                if (send.Moved < send.Total) break;
                sends[peer].Dequeue();
                Complete(send);
            }

            if (receives.Count > 0 || arrivals[peer].HeaderDone > 0) moved |= Pull(peer);
        }

        return moved;
    }

    private bool SendToSelf(int self)
    {
        if (!sends[self].TryDequeue(out Operation? send)) return false;
        var envelope = new Envelope(send.Tag, send.Type, send.Length);
        byte[] copy = ArrayPool<byte>.Shared.Rent((int)send.Length);
        new Span<byte>(send.Bytes, (int)send.Length).CopyTo(copy);
        Complete(send);
        Deliver(self, envelope, copy);
        return true;
    }

    private bool Push(Operation send)
    {
        var envelope = new Envelope(send.Tag, send.Type, send.Length);
        ReadOnlySpan<byte> header = MemoryMarshal.AsBytes(new ReadOnlySpan<Envelope>(in envelope));
        int ofHeader = (int)Math.Min(send.Moved, Envelope.Size);
        nint done = send.Moved - ofHeader;
        int piece = (int)Math.Min(transport.PieceBytes - (done % transport.PieceBytes), send.Length - done);
        int moved = transport.TrySend(send.Peer, header[ofHeader..], new ReadOnlySpan<byte>(send.Bytes + done, piece));
        send.Moved += moved;
        return moved > 0;
    }

    private bool Pull(int peer)
    {
        Arrival arrival = arrivals[peer];
        if (arrival.HeaderDone < Envelope.Size)
        {
            Span<byte> header = MemoryMarshal.AsBytes(new Span<Envelope>(ref arrival.Envelope));
            int got = arrival.IsClosed ? 0 : ReceiveHeader(peer, arrival, header[arrival.HeaderDone..]);
            if (got == 0) return false;
            arrival.HeaderDone += got;
            if (arrival.HeaderDone < Envelope.Size) return true;
            arrival.Envelope.Check();
            Match(peer, arrival);
        }

        bool moved = false;
        while (arrival.Done < arrival.Length)
        {
            int piece = (int)Math.Min(transport.PieceBytes - (arrival.Done % transport.PieceBytes), arrival.Length - arrival.Done);
            Span<byte> into = arrival.Receive is { } receive
                ? new Span<byte>(receive.Bytes + arrival.Done, piece)
                : arrival.Kept.AsSpan((int)arrival.Done, piece);
            int got = transport.TryReceive(peer, default, into);
            if (got == 0) return moved;
            arrival.Done += got;
            moved = true;
        }

        arrival.HeaderDone = 0;
        if (arrival.Receive is { } done)
        {
            arrival.Receive = null;
            Complete(done);
        }
        else
        {
            Deliver(peer, arrival.Envelope, arrival.Kept);
            arrival.Kept = [];
        }

        return true;
    }

    /// <summary>A peer that has said all and left closes its stream between messages: no loss for those who wait for others.</summary>
    private int ReceiveHeader(int peer, Arrival arrival, Span<byte> header)
    {
        try
        {
            return transport.TryReceive(peer, header, default);
        }
        catch (PeerUnreachable) when (arrival.HeaderDone == 0)
        {
            arrival.IsClosed = true;
            return 0;
        }
    }

    private void Match(int peer, Arrival arrival)
    {
        arrival.Done = 0;
        arrival.Length = (nint)arrival.Envelope.Bytes;
        arrival.Receive = Take(peer, arrival.Envelope);
        // Pooled: large arrays of a moment would have this thread start collections in the middle of others' native calls.
        if (arrival.Receive is null) arrival.Kept = ArrayPool<byte>.Shared.Rent((int)arrival.Length);
    }

    /// <summary>The receive that a message is for, if there is one yet.</summary>
    private Operation? Take(int from, in Envelope envelope)
    {
        foreach (Operation receive in receives)
        {
            if (!receive.Matches(from, envelope)) continue;
            // Before it leaves the list: a message that does not fit fails all that is in it.
            receive.Accept(from, envelope);
            receives.Remove(receive);
            return receive;
        }

        return null;
    }

    /// <summary>A message nobody had asked for when it began; somebody may have by now. Its memory is rented.</summary>
    private void Deliver(int from, in Envelope envelope, byte[] bytes)
    {
        if (Take(from, envelope) is not { } receive)
        {
            unexpected.AddLast((from, envelope, bytes));
            return;
        }

        int length = (int)envelope.Bytes;
        bytes.AsSpan(0, length).CopyTo(new Span<byte>(receive.Bytes, length));
        ArrayPool<byte>.Shared.Return(bytes);
        Complete(receive);
    }

    private void TakeUnexpected(Operation receive)
    {
        for (var node = unexpected.First; node is not null; node = node.Next)
        {
            (int from, Envelope envelope, byte[] bytes) = node.Value;
            if (!receive.Matches(from, envelope)) continue;
            unexpected.Remove(node);
            Deliver(from, envelope, bytes);
            return;
        }
    }
}
