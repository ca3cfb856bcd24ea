using System.Text.RegularExpressions;

namespace Skein.Training.TensorParallelism;

/// <summary>What a module becomes when the ranks of a tensor group divide a model.</summary>
public enum TensorParallelKind
{
    /// <summary>A linear layer of whose outputs each rank computes a part, from the whole input.</summary>
    Column,

    /// <summary>The same, whose output is then collected on every rank; the parts need not be equal.</summary>
    GatheredColumn,

    /// <summary>A linear layer that takes a <see cref="Column"/> layer's divided outputs; the ranks' results are added up.</summary>
    Row,

    /// <summary>An embedding table of whose rows each rank has a part; the parts need not be equal.</summary>
    Embedding,

    /// <summary>
    /// The last linear layer, to logits, of which each rank keeps its part of the vocabulary: the loss is computed from the parts, and
    /// has to be the mean cross-entropy over positions. The parts need not be equal.
    /// </summary>
    Head,

    /// <summary>A module whose input several <see cref="Column"/> layers inside of it take, as attention's query, key and value do: then the ranks communicate once for all of them.</summary>
    Region,

    /// <summary>
    /// A module between the divided ones that works on each position of a sequence by itself, as norms and dropout do. It stays whole; with
    /// sequence parallelism it works on this rank's slice, and the ranks' gradients of its parameters are added up.
    /// </summary>
    Sequence,

    /// <summary>A table of positions, looked up by the numbers of all positions in their order. It stays whole; with sequence parallelism each rank looks up its slice.</summary>
    Positions,
}

/// <summary>Says which modules become what. Immutable.</summary>
/// <param name="Pattern">The end of a module's name, from its beginning or from behind a dot; <c>*</c> stands for any characters but dots.</param>
/// <param name="Kind">What they become.</param>
public sealed record TensorParallelRule(string Pattern, TensorParallelKind Kind)
{
    /// <summary>For attention's <see cref="TensorParallelKind.Column"/> layers, the number of heads that the outputs consist of: each rank gets whole ones. Default 1 for no heads.</summary>
    public int Heads { get; init; } = 1;

    /// <summary>Whether a model may have no such module.</summary>
    public bool Optional { get; init; }

    internal bool Matches(string name) => Regex.IsMatch(name, $@"(^|\.){Regex.Escape(Pattern).Replace(@"\*", "[^.]*", StringComparison.Ordinal)}$", RegexOptions.CultureInvariant);

    /// <inheritdoc/>
    public override string ToString() => $"{Pattern}: {Kind}";
}
