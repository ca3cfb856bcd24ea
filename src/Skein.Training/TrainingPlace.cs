namespace Skein.Training;

/// <summary>Where a trainer is in its data: what its next step is. Not thread-safe.</summary>
internal sealed class TrainingPlace
{
    /// <summary>The epoch of the next step, from 0.</summary>
    public int Epoch { get; private set; }

    /// <summary>The steps of that epoch that have been done.</summary>
    public int Batch { get; private set; }

    /// <summary>All steps that have been done.</summary>
    public long Steps { get; private set; }

    /// <summary>A step is done.</summary>
    public void Advance() => (Batch, Steps) = (Batch + 1, Steps + 1);

    /// <summary>Some steps are done, of epochs of <paramref name="perEpoch"/>.</summary>
    public void Advance(long steps, int perEpoch)
    {
        (long epochs, long batch) = Math.DivRem(Batch + steps, perEpoch);
        (Epoch, Batch, Steps) = (checked(Epoch + (int)epochs), (int)batch, Steps + steps);
    }

    /// <summary>An epoch is over.</summary>
    public void NextEpoch() => (Epoch, Batch) = (Epoch + 1, 0);

    /// <summary>Of other data, an epoch that has fewer steps than have been done is over.</summary>
    public void Fit(int perEpoch)
    {
        if (Batch >= perEpoch) NextEpoch();
    }
}
