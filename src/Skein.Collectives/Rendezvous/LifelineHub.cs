using System.Net.Sockets;

namespace Skein.Collectives.Rendezvous;

/// <summary>
/// The centre of the <see cref="Lifeline"/>'s star, on rank 0: hears every rank, notices who is lost, compares what they
/// wait in, and tells all of them. Rank 0's own lifeline hears it through <paramref name="deliver"/>. Thread-safe.
/// </summary>
internal sealed class LifelineHub(int worldSize, Action<LifelineMessage> deliver) : IAsyncDisposable
{
    private static readonly TimeSpan AnswerLimit = TimeSpan.FromSeconds(1);

    private readonly Lock gate = new();
    private readonly FrameConnection?[] links = new FrameConnection?[worldSize];
    private readonly PeerState[] states = new PeerState[worldSize];
    private readonly Dictionary<(int Rank, int Group), WaitReport> waits = [];
    private readonly WaitReport?[] lastReports = new WaitReport?[worldSize];
    private readonly HashSet<int> asked = [];
    private readonly TaskCompletionSource allAnswered = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private JobFailure? failure;
    private bool disposed;

    /// <summary>What each rank last reported to wait in.</summary>
    public IReadOnlyList<(int Rank, WaitReport? Last)> LastReports
    {
        get
        {
            lock (gate) return [.. lastReports.Select((report, rank) => (rank, report))];
        }
    }

    /// <summary>What a rank says when it connects.</summary>
    public static byte[] Hello(int rank, int worldSize) => [.. BitConverter.GetBytes(rank), .. BitConverter.GetBytes(worldSize)];

    /// <summary>The handler of a rank's connection: runs until it ends.</summary>
    public async Task ServeAsync(Socket socket, ReadOnlyMemory<byte> hello)
    {
        await using var link = new FrameConnection(socket, LifelineMessage.MaximumLength);
        if (Admit(link, hello.Span) is not { } rank) return;
        string reason = "its connection closed (the process died or was killed)";
        try
        {
            while (await link.ReceiveAsync().ConfigureAwait(false) is { } content)
            {
                Receive(rank, LifelineMessage.Decode(content, worldSize));
            }
        }
        catch (InvalidDataException error)
        {
            reason = $"it sent a malformed message: {error.Message}";
        }

        lock (gate)
        {
            if (disposed || states[rank] != PeerState.Alive) return;
            ChangeState(rank, PeerState.Lost);
            Fail(new JobFailure(FailureKind.PeerLost, rank, $"rank {rank} was lost: {reason}"));
        }
    }

    /// <summary>Takes a message of any rank, rank 0 included.</summary>
    public void Receive(int rank, LifelineMessage message)
    {
        lock (gate)
        {
            switch (message)
            {
                case LifelineMessage.Failed { Failure: { Kind: FailureKind.Timeout } waited }:
                    if (failure is null && asked.Count == 0) _ = FailAfterAskingAsync(waited with { Rank = rank });
                    break;
                case LifelineMessage.Pong:
                    if (asked.Remove(rank) && asked.Count == 0) allAnswered.TrySetResult();
                    break;
                case LifelineMessage.Failed { Failure: var reported }:
                    Fail(reported with { Rank = rank });
                    break;
                case LifelineMessage.Waiting { Report: var report }:
                    Compare(report with { Rank = rank });
                    break;
                case LifelineMessage.Goodbye:
                    ChangeState(rank, PeerState.Left);
                    break;
                default:
                    throw new InvalidDataException($"a rank cannot say {message.GetType().Name}");
            }
        }
    }

    /// <summary>Tells the ranks what is queued for them, for at most a second, and closes their connections.</summary>
    public async ValueTask DisposeAsync()
    {
        FrameConnection[] open;
        lock (gate)
        {
            disposed = true;
            open = [.. links.OfType<FrameConnection>()];
        }

        await Task.WhenAll(open.Select(link => link.DisposeAsync().AsTask())).ConfigureAwait(false);
    }

    /// <returns>The rank; null when it cannot be part of this job, which it has been told.</returns>
    private int? Admit(FrameConnection link, ReadOnlySpan<byte> hello)
    {
        var reader = new FrameReader(hello);
        int rank = reader.ReadInt32();
        int itsWorldSize = reader.ReadInt32();
        reader.End();
        lock (gate)
        {
            if (disposed) return null;
            string? objection =
                itsWorldSize != worldSize
                    ? $"rank {rank} was started with WORLD_SIZE={itsWorldSize}, but rank 0 with WORLD_SIZE={worldSize}; start all ranks with the same"
                : rank <= 0 || rank >= worldSize
                    ? $"rank {rank} cannot join: the ranks of this job are 1 to {worldSize - 1}, besides rank 0 itself"
                : links[rank] is not null
                    ? $"rank {rank} is already connected; two processes were started with RANK={rank}"
                : null;
            if (objection is not null)
            {
                _ = link.SendAsync(new LifelineMessage.Rejected(objection).Encode());
                return null;
            }

            links[rank] = link;
            _ = link.SendAsync(new LifelineMessage.Welcome().Encode());
            for (int other = 0; other < worldSize; other++)
            {
                if (states[other] != PeerState.Alive)
                {
                    _ = link.SendAsync(new LifelineMessage.StateChanged(other, states[other]).Encode());
                }
            }

            if (failure is not null) _ = link.SendAsync(new LifelineMessage.Failed(failure).Encode());
            return rank;
        }
    }

    private void Compare(WaitReport report)
    {
        waits[(report.Rank, report.Group)] = report;
        lastReports[report.Rank] = report;
        foreach (WaitReport other in waits.Values)
        {
            if (other.Group == report.Group && other.Sequence == report.Sequence
                && !other.Signature.Span.SequenceEqual(report.Signature.Span))
            {
                Fail(new JobFailure(
                    FailureKind.Mismatch, report.Rank,
                    $"the ranks called different collectives: rank {other.Rank} called {other.Description}, but rank {report.Rank} called {report.Description} " +
                    $"(call {report.Sequence} of group {report.Group}); all ranks of a group must make the same calls in the same order"));
                return;
            }
        }
    }

    // Who waited may have waited for one who waited as well, and only the first of them knows whom to name.
    private async Task FailAfterAskingAsync(JobFailure waited)
    {
        byte[] ping = new LifelineMessage.Ping().Encode();
        for (int rank = 1; rank < worldSize; rank++)
        {
            if (links[rank] is not { } link || states[rank] != PeerState.Alive) continue;
            asked.Add(rank);
            _ = link.SendAsync(ping);
        }

        await Task.WhenAny(allAnswered.Task, Task.Delay(AnswerLimit)).ConfigureAwait(false);
        lock (gate)
        {
            Fail(asked.Count == 0 ? waited : waited with
            {
                Message = $"{waited.Message}; rank {string.Join(", ", asked.Order())} does not answer: it is frozen, or its host is lost",
            });
        }
    }

    // The first failure is the cause; what follows it are consequences.
    private void Fail(JobFailure next)
    {
        if (failure is not null) return;
        failure = next;
        Broadcast(new LifelineMessage.Failed(next));
    }

    private void ChangeState(int rank, PeerState state)
    {
        states[rank] = state;
        Broadcast(new LifelineMessage.StateChanged(rank, state));
    }

    private void Broadcast(LifelineMessage message)
    {
        byte[] frame = message.Encode();
        foreach (FrameConnection? link in links)
        {
            if (link is not null) _ = link.SendAsync(frame);
        }

        deliver(message);
    }
}
