namespace Skein.Collectives.Rendezvous;

/// <summary>What is known of a rank.</summary>
internal enum PeerState : byte
{
    /// <summary>Connected, or not heard of yet.</summary>
    Alive = 0,

    /// <summary>It said goodbye.</summary>
    Left = 1,

    /// <summary>Its connection ended without a goodbye.</summary>
    Lost = 2,
}

internal enum FailureKind : byte
{
    PeerLost = 1,
    Mismatch = 2,
    Timeout = 3,
    Aborted = 4,
}

/// <summary>Why the job cannot go on.</summary>
/// <param name="Kind">Which error the ranks throw.</param>
/// <param name="Rank">Who was lost, or who reported it.</param>
/// <param name="Message">For people.</param>
internal sealed record JobFailure(FailureKind Kind, int Rank, string Message)
{
    public SkeinException ToException() => Kind switch
    {
        FailureKind.PeerLost => new PeerLostException(Message),
        FailureKind.Mismatch => new CollectiveMismatchException(Message),
        FailureKind.Timeout => new CollectiveTimeoutException(Message),
        _ => new JobAbortedException($"rank {Rank} gave up: {Message}"),
    };
}

/// <summary>"I have been waiting in this call of this group."</summary>
/// <param name="Rank">Who waits.</param>
/// <param name="Group">The group's number, the same on all its ranks.</param>
/// <param name="Sequence">The call's number within the group.</param>
/// <param name="Signature">What must be equal on all ranks: at most <see cref="MaximumSignatureLength"/> bytes.</param>
/// <param name="Description">The call, for people.</param>
internal readonly record struct WaitReport(int Rank, int Group, long Sequence, ReadOnlyMemory<byte> Signature, string Description)
{
    public const int MaximumSignatureLength = 1024;
}
