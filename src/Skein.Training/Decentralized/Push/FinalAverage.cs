using System.Numerics.Tensors;
using System.Runtime.InteropServices;

namespace Skein.Training.Decentralized;

/// <summary>The end of a push-sum: Σ x / Σ w over those that came.</summary>
/// <param name="Mean">The same on every peer.</param>
/// <param name="Weight">Σ w: the number of peers, as long as nothing was lost.</param>
/// <param name="Distance">√(1/n Σ_i ‖x_i / w_i - mean‖²).</param>
/// <param name="Finished">The ranks that came, in order.</param>
internal sealed record FinalAverage(float[] Mean, double Weight, double Distance, int[] Finished)
{
    private const int HeaderLength = 2 * sizeof(double);

    /// <summary>The most bytes of a message.</summary>
    public static int MaximumLength(int parameters, int peers) => checked(HeaderLength + ((parameters + peers) * sizeof(float)));

    /// <summary>What a peer brings.</summary>
    public static byte[] Encode(ReadOnlySpan<float> x, double weight) => [.. MemoryMarshal.AsBytes(new ReadOnlySpan<double>(in weight)), .. MemoryMarshal.AsBytes(x)];

    /// <summary>The answer to what all have brought; null for those that are lost.</summary>
    /// <exception cref="InvalidDataException">Someone brought as many values as no model of ours has.</exception>
    public static byte[] Answer(byte[]?[] all, int parameters)
    {
        var mean = new float[parameters];
        double weight = 0;
        int[] finished = [.. Enumerable.Range(0, all.Length).Where(peer => all[peer] is not null)];
        foreach (int peer in finished)
        {
            if (all[peer]!.Length != sizeof(double) + (parameters * sizeof(float))) throw new InvalidDataException($"rank {peer} brought {all[peer]!.Length} bytes to the final average of {parameters} parameters");
            TensorPrimitives.Add(mean, Vector(all[peer]!), mean);
            weight += Weight(all[peer]!);
        }

        TensorPrimitives.Divide(mean, (float)weight, mean);
        double squares = 0;
        var estimate = new float[parameters];
        foreach (int peer in finished)
        {
            TensorPrimitives.Divide(Vector(all[peer]!), (float)Weight(all[peer]!), estimate);
            double distance = TensorPrimitives.Distance<float>(estimate, mean);
            squares += distance * distance;
        }

        double[] header = [weight, Math.Sqrt(squares / finished.Length)];
        return [.. MemoryMarshal.AsBytes(header.AsSpan()), .. MemoryMarshal.AsBytes(mean.AsSpan()), .. MemoryMarshal.AsBytes(finished.AsSpan())];

        static double Weight(byte[] bytes) => MemoryMarshal.Read<double>(bytes);

        static ReadOnlySpan<float> Vector(byte[] bytes) => MemoryMarshal.Cast<byte, float>(bytes.AsSpan(sizeof(double)));
    }

    public static FinalAverage Decode(byte[] answer, int parameters)
    {
        int end = HeaderLength + (parameters * sizeof(float));
        ReadOnlySpan<double> header = MemoryMarshal.Cast<byte, double>(answer.AsSpan(0, HeaderLength));
        return new FinalAverage(
            MemoryMarshal.Cast<byte, float>(answer.AsSpan(HeaderLength..end)).ToArray(), header[0], header[1], MemoryMarshal.Cast<byte, int>(answer.AsSpan(end)).ToArray());
    }
}
