namespace Skein.Training;

/// <summary>The last losses, in a ring of fixed size.</summary>
internal sealed class LossHistory(int capacity)
{
    private readonly List<float> ring = [];
    private int oldest;

    public void Add(float loss)
    {
        if (ring.Count < capacity)
        {
            ring.Add(loss);
            return;
        }

        ring[oldest] = loss;
        oldest = (oldest + 1) % capacity;
    }

    public float[] ToArray() => [.. ring[oldest..], .. ring[..oldest]];
}
