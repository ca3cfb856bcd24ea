namespace Skein.Cli.Train;

/// <summary>Checked options.</summary>
internal sealed record TrainPlan
{
    /// <summary>Checks <paramref name="options"/> for a job of <paramref name="worldSize"/> workers, without loading LibTorch or data.</summary>
    /// <exception cref="UsageException">Something is unknown or does not fit; the message lists the choices or shows the arithmetic.</exception>
    public static TrainPlan Create(TrainOptions options, int worldSize) => throw new NotImplementedException();
}
