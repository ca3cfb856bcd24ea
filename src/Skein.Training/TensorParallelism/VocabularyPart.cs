using Skein.Collectives;
using TorchSharp;
using static TorchSharp.torch;

namespace Skein.Training.TensorParallelism;

/// <summary>The ids of a vocabulary that one rank has: a run of them, one longer on the first ranks where they do not divide.</summary>
internal readonly struct VocabularyPart(TensorCollectives collectives, long vocabulary)
{
    public long Start { get; } = Partition.Start(vocabulary, collectives.WorldSize, collectives.Rank);

    public long Length { get; } = Partition.Length(vocabulary, collectives.WorldSize, collectives.Rank);

    /// <summary>The ids counted from the first one here, 0 for those of other ranks, and which these are.</summary>
    /// <exception cref="ArgumentOutOfRangeException">An id is not in the vocabulary; the same on all ranks.</exception>
    public (Tensor Local, Tensor Elsewhere) Locate(Tensor ids)
    {
        (long smallest, long largest) = ids.numel() == 0 ? (0, 0) : (ids.min().ToInt64(), ids.max().ToInt64());
        if (smallest < 0 || largest >= vocabulary)
        {
            throw new ArgumentOutOfRangeException(nameof(ids), smallest < 0 ? smallest : largest, $"an id is outside of the vocabulary of {vocabulary}, whose ids go from 0 to {vocabulary - 1}");
        }

        Tensor local = ids - Start;
        Tensor elsewhere = local.lt(0).logical_or(local.ge(Length));
        return (local.masked_fill_(elsewhere, 0), elsewhere);
    }
}
