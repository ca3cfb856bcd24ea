namespace Skein.Training.Planning;

/// <summary>What one rank of a tensor group has of a layer, for one micro-batch: costs of the parts that are divided, and of those that are not.</summary>
/// <param name="Layer">The whole of it.</param>
/// <param name="Samples">In the micro-batch.</param>
/// <param name="Ranks">That divide the layer.</param>
internal readonly record struct LayerShare(LayerProfile Layer, double Samples, int Ranks)
{
    public double Forward => Layer.Forward.At(Samples) * TimePart;

    public double Backward => Layer.Backward.At(Samples) * TimePart;

    public double Saved => Layer.Saved.At(Samples) * BytesPart;

    public double ForwardPeak => Math.Max(Saved, Layer.ForwardPeak.At(Samples) * BytesPart);

    /// <summary>Of fresh gradients.</summary>
    public double GradientBytes => Element * Layer.Parameters.Sum(Part);

    public double BackwardPeak => ((Layer.BackwardPeak.At(Samples) - WholeGradientBytes) * BytesPart) + GradientBytes;

    public double BackwardChange => ((Layer.BackwardChange.At(Samples) - WholeGradientBytes) * BytesPart) + GradientBytes;

    /// <summary>What its ranks exchange.</summary>
    public IEnumerable<(CollectiveKind Kind, double Bytes, bool InBackward)> Collectives
    {
        get
        {
            if (Ranks == 1) return [];
            double samples = Samples;
            return Layer.Collectives.Select(collective => (collective.Kind, collective.BytesPerSample * samples, collective.InBackward));
        }
    }

    // Single precision.
    private const double Element = 4;

    private double TimePart => Part(Layer.DividedTime);

    private double BytesPart => Part(Layer.DividedBytes);

    private double WholeGradientBytes => Element * Layer.Parameters.Sum(static parameter => parameter.Elements);

    private double Part(double divided) => (divided / Ranks) + 1 - divided;

    private double Part(ParameterProfile parameter) => ModelProfile.Part(parameter, Ranks);
}
