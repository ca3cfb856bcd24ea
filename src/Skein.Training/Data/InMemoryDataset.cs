using static TorchSharp.torch;

namespace Skein.Training.Data;

/// <summary>
/// Samples held in memory: two tensors of which row i is sample i's features and label. Owns both. Reading is
/// thread-safe.
/// </summary>
public sealed class InMemoryDataset : IDisposable
{
    private readonly Func<Tensor, Tensor>? transform;

    /// <summary>A data set over <paramref name="features"/> [n, …] and <paramref name="labels"/> [n, …], which it takes over.</summary>
    /// <param name="features">The features.</param>
    /// <param name="labels">The labels.</param>
    /// <param name="transform">
    /// Applied to each batch of features, for example to keep pixels as bytes and scale them when they are used.
    /// </param>
    /// <exception cref="ArgumentException">They differ in the number of rows, or have none.</exception>
    public InMemoryDataset(Tensor features, Tensor labels, Func<Tensor, Tensor>? transform = null)
    {
        ArgumentNullException.ThrowIfNull(features);
        ArgumentNullException.ThrowIfNull(labels);
        if (features.dim() == 0 || labels.dim() == 0 || features.shape[0] != labels.shape[0] || features.shape[0] == 0)
        {
            throw new ArgumentException(
                $"features of shape [{string.Join(", ", features.shape)}] and labels of shape [{string.Join(", ", labels.shape)}] " +
                "do not pair up: both need the same number of rows, at least 1");
        }

        Features = features.DetachFromDisposeScope();
        Labels = labels.DetachFromDisposeScope();
        Count = checked((int)features.shape[0]);
        this.transform = transform;
    }

    /// <summary>The number of samples.</summary>
    public int Count { get; }

    /// <summary>The features as stored, before any transform: [n, …].</summary>
    public Tensor Features { get; }

    /// <summary>The labels: [n, …].</summary>
    public Tensor Labels { get; }

    /// <summary>The samples at <paramref name="indices"/> (int64, [k]), as new tensors on <paramref name="device"/>.</summary>
    public (Tensor Features, Tensor Labels) Gather(Tensor indices, Device device)
    {
        Tensor features = Features.index_select(0, indices).to(device);
        Tensor labels = Labels.index_select(0, indices).to(device);
        return (transform is null ? features : transform(features), labels);
    }

    /// <summary>Frees both tensors.</summary>
    public void Dispose()
    {
        Features.Dispose();
        Labels.Dispose();
    }
}
