using Skein.Collectives.Transports;

namespace Skein.Collectives.Algorithms;

/// <summary>
/// Ring all-reduce (Patarasuk and Yuan 2009): the buffer is cut into one segment per rank; in N - 1 steps each
/// segment travels once around the ring and is reduced on the way, in N - 1 more the results travel around.
/// </summary>
/// <remarks>
/// Pipelined: the 2(N - 1) steps form one stream to the right and one from the left, cut into pieces. A piece goes
/// out as soon as it has been reduced, so that neighbours work on different steps at once and only pieces wait.
/// Each segment is summed in ring order, starting with its own rank: the same on all ranks, whatever the timing.
/// </remarks>
internal static unsafe class RingAllReduce
{
    /// <param name="links">The streams of this call.</param>
    /// <param name="call">The buffer to reduce in place is its output.</param>
    /// <param name="ring">The ranks that take part, in ring order.</param>
    /// <param name="held">How many ranks' contributions each of them brings; one by default.</param>
    public static void Run(Links links, CollectiveCall call, int[] ring, int[]? held = null)
    {
        int n = ring.Length;
        int me = Array.IndexOf(ring, links.Rank);
        int right = ring[(me + 1) % n], left = ring[(me + n - 1) % n];
        links.Prepare(right);
        int steps = 2 * (n - 1);
        byte* scratch = links.Scratch;
        nint piece = links.PieceBytes;
        int sendStep = 0, receiveStep = 0, arrivingRanks = Held(me - 1);
        Links.Stream outgoing = Segment(me, right, false), arriving = Segment(me - 1, left, true);
        while (sendStep < steps || receiveStep < steps)
        {
            bool moved = false;
            nint available = 0;
            if (sendStep < steps)
            {
                // A step sends the segment that the step before received; the first sends the own one.
                if (sendStep == 0 || sendStep <= receiveStep) available = outgoing.Length;
                else if (sendStep == receiveStep + 1) available = CompletePieces(arriving);
                moved = links.Send(ref outgoing, available);
                if (available == outgoing.Length && links.Sent(outgoing))
                {
                    moved = true;
                    if (++sendStep < steps) outgoing = Segment(me - sendStep, right, false);
                }
            }

            if (receiveStep < steps)
            {
                nint before = arriving.Done;
                moved |= links.Receive(ref arriving);
                if (arriving.Wraps && arriving.Done != before && arriving.AtPieceEnd(piece))
                {
                    nint start = (arriving.Done - 1) / piece * piece;
                    links.Accumulate(call, Address(me - receiveStep - 1) + start, scratch, arriving.Done - start, Held(me), arrivingRanks);
                }

                if (links.Received(arriving))
                {
                    moved = true;
                    if (++receiveStep < steps) arriving = Segment(me - receiveStep - 1, left, receiveStep < n - 1);
                    arrivingRanks += Held(me - receiveStep - 1);
                }
            }

            if (moved) links.Progressed();
            else links.Idle(available > outgoing.Done ? right : -1, receiveStep < steps ? left : -1);
        }

        nint CompletePieces(in Links.Stream stream) =>
            stream.Done == stream.Length ? stream.Length : stream.Done / piece * piece;

        int Wrap(int segment) => (segment + (2 * n)) % n;

        int Held(int member) => held is null ? 1 : held[Wrap(member)];

        byte* Address(int segment) => call.Output + (Partition.Start(call.Count, n, Wrap(segment)) * call.ElementSize);

        Links.Stream Segment(int segment, int peer, bool reducing)
        {
            nint length = (nint)(Partition.Length(call.Count, n, Wrap(segment)) * call.ElementSize);
            return new Links.Stream(peer, reducing ? scratch : Address(segment), length) { Wraps = reducing };
        }
    }
}
