namespace Skein.Training.Embeddings;

/// <summary>
/// An embedding table that a model asks for. A model gets its tables from a
/// <c>Func&lt;EmbeddingSpec, nn.Module&lt;Tensor, Tensor&gt;&gt;</c>: <see cref="LocalEmbedding.Create"/> keeps them in the model, another
/// factory may leave them elsewhere. What it returns maps indices (int64, any shape) to their rows: one dimension more, of
/// <paramref name="Dimension"/>.
/// </summary>
/// <param name="Name">Unique within the model.</param>
/// <param name="Rows">How many indices there are, 1 or more: from 0 to <paramref name="Rows"/> - 1.</param>
/// <param name="Dimension">The length of a row, 1 or more.</param>
/// <param name="InitialDeviation">Rows start as independent normal values of mean 0 and this standard deviation; 0: as zeros.</param>
public sealed record EmbeddingSpec(string Name, long Rows, int Dimension, float InitialDeviation);
