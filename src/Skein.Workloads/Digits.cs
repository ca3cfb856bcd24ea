using System.Globalization;
using System.IO.Compression;
using Skein.Training.Data;
using Skein.Training.TensorParallelism;
using Skein.Workloads.Models;
using static TorchSharp.torch;

namespace Skein.Workloads;

/// <summary>
/// 1,797 handwritten digits of 8×8 pixels, part of this assembly: every fifth, from the first, is for testing (360), the others are
/// for training (1,437), both in the order of the file. Pixels are scaled from 0..16 to 0..1.
/// </summary>
internal static class Digits
{
    private const int Count = 1_797;
    private const int Pixels = 64;
    private const int TestEvery = 5;

    internal static Workload Workload { get; } = new()
    {
        Name = "digits",
        Description = "1,797 handwritten digits of 8×8 pixels; always at hand",
        // No dropout and no batch normalization: any number of workers computes what one does.
        Models = [new("mlp", _ => nn.Sequential(Mlp.Layers(Pixels, 128, 10)), TensorPlan: TensorParallelPlan.Mlp)],
        LoadDataAsync = _ => Task.FromResult(Load()),
        Defaults = new Hyperparameters(Epochs: 20, BatchSize: 48, Optimizer: "momentum", LearningRate: 0.05),
    };

    private static WorkloadData Load()
    {
        using Stream resource = typeof(Digits).Assembly.GetManifestResourceStream("digits.csv.gz")!;
        using var reader = new StreamReader(new GZipStream(resource, CompressionMode.Decompress));
        var pixels = new float[Count * Pixels];
        var labels = new long[Count];
        for (int row = 0; row < Count; row++)
        {
            ReadOnlySpan<char> line = reader.ReadLine();
            int column = 0;
            foreach (Range field in line.Split(','))
            {
                byte value = byte.Parse(line[field], CultureInfo.InvariantCulture);
                if (column < Pixels) pixels[(row * Pixels) + column++] = value / 16f;
                else labels[row] = value;
            }
        }

        using Tensor allPixels = tensor(pixels, Count, Pixels);
        using Tensor allLabels = tensor(labels);
        using Tensor isTest = arange(Count).remainder(TestEvery).eq(0);
        return new WorkloadData(Rows(isTest.logical_not()), Rows(isTest));

        InMemoryDataset Rows(Tensor mask) => new(allPixels[mask], allLabels[mask]);
    }
}
