using System.Numerics.Tensors;

namespace Skein.Training.Decentralized;

/// <summary>
/// One peer's part of a push-sum (Kempe, Dobra and Gehrke 2003): a vector x and a weight w, of which parts are given to
/// others. x / w is the peer's estimate of the mean, whoever sends how much to whom and how late, as long as nothing gets
/// lost: Σ x and Σ w over the peers and what is under way never change by sending. Thread-safe.
/// </summary>
internal sealed class PushSum
{
    /// <summary>Below this weight a peer keeps what it has until it has received something, so that its steps still count.</summary>
    public const double LeastToShare = 0.75;

    private readonly Lock gate = new();
    private readonly float[] vector;
    private readonly float[] inbox;
    private double weight;
    private double inboxWeight;

    /// <summary>Begins with x = <paramref name="values"/> and w = 1.</summary>
    public PushSum(ReadOnlySpan<float> values)
    {
        vector = values.ToArray();
        inbox = new float[values.Length];
        weight = 1;
    }

    public int Length => vector.Length;

    /// <summary>Begins anew with a weight and an estimate x / w. What has been received meanwhile still counts.</summary>
    public void Begin(ReadOnlySpan<float> estimate, double itsWeight = 1)
    {
        lock (gate)
        {
            TensorPrimitives.Multiply(estimate, (float)itsWeight, vector);
            weight = itsWeight;
        }
    }

    /// <summary>
    /// Scales x and w so that w = 1, which leaves the estimate as it is: where mass was lost with a peer, so that all that is
    /// left might be too little to share for everyone.
    /// </summary>
    public void Rescale()
    {
        lock (gate)
        {
            TensorPrimitives.Divide(vector, (float)weight, vector);
            weight = 1;
        }
    }

    /// <summary>Copies x to <paramref name="values"/> and gives w, with what was received, and leaves neither here.</summary>
    public double TakeAll(Span<float> values)
    {
        lock (gate)
        {
            TensorPrimitives.Add(vector, inbox, values);
            double all = weight + inboxWeight;
            vector.AsSpan().Clear();
            inbox.AsSpan().Clear();
            (weight, inboxWeight) = (0, 0);
            return all;
        }
    }

    /// <summary>w, with what was received and not yet folded in.</summary>
    public double Weight
    {
        get
        {
            lock (gate) return weight + inboxWeight;
        }
    }

    /// <summary>Takes mass from another peer, or back from a connection that could not deliver it. Counts from the next <see cref="Fold"/>.</summary>
    public void Receive(ReadOnlySpan<float> values, double itsWeight)
    {
        lock (gate)
        {
            TensorPrimitives.Add(inbox, values, inbox);
            inboxWeight += itsWeight;
        }
    }

    /// <summary>Adds what was received, and gives the estimate x / w.</summary>
    public void Fold(Span<float> estimate)
    {
        lock (gate)
        {
            TensorPrimitives.Add(vector, inbox, vector);
            weight += inboxWeight;
            inbox.AsSpan().Clear();
            inboxWeight = 0;
            TensorPrimitives.Divide(vector, (float)weight, estimate);
        }
    }

    /// <summary>x / w at this moment, without what was not yet folded in.</summary>
    public void Estimate(Span<float> estimate)
    {
        lock (gate) TensorPrimitives.Divide(vector, (float)weight, estimate);
    }

    /// <summary>
    /// Adds to x what moves the estimate of the last <see cref="Fold"/> by <paramref name="change"/>: Assran et al. 2019,
    /// algorithm 1, line 4, with the step times w. Without that factor the estimate of a peer with little weight would move
    /// further than its optimizer asked for, which diverges.
    /// </summary>
    public void Step(ReadOnlySpan<float> change)
    {
        lock (gate) TensorPrimitives.MultiplyAdd(change, (float)weight, vector, vector);
    }

    /// <summary>Takes half of x and w out, to be sent to one other peer; the other half stays.</summary>
    /// <returns>The weight that goes with <paramref name="half"/>; 0 when this peer has too little to share.</returns>
    public double Split(Span<float> half)
    {
        lock (gate)
        {
            if (weight < LeastToShare) return 0;
            Halve();
            vector.CopyTo(half);
            return weight;
        }
    }

    /// <summary>Gives half of x and w away, however little there is, to a peer that knows this one's estimate x / w and begins with it.</summary>
    /// <returns>The weight that was given away.</returns>
    public double GiveHalf()
    {
        lock (gate)
        {
            Halve();
            return weight;
        }
    }

    // Halves are exact in binary, so that not even rounding loses mass.
    private void Halve()
    {
        TensorPrimitives.Multiply(vector, 0.5f, vector);
        weight /= 2;
    }
}
