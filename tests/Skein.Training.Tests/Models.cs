using Skein.Training.Data;
using TorchSharp;
using static TorchSharp.torch;

namespace Skein.Training.Tests;

/// <summary>Small models and data with fixed seeds, and what to compare them by.</summary>
internal static class Models
{
    private static readonly Lock Seeding = new();

    /// <summary>TorchSharp's generator belongs to the process, so models are made one at a time.</summary>
    public static T Seeded<T>(int seed, Func<T> make)
    {
        lock (Seeding)
        {
            torch.random.manual_seed(seed);
            return make();
        }
    }

    public static nn.Module<Tensor, Tensor> Mlp(int seed = 1) => Seeded(seed, static () => nn.Sequential(
        nn.Linear(20, 32), nn.Tanh(), nn.Linear(32, 16), nn.Tanh(), nn.Linear(16, 5)));

    public static InMemoryDataset Data(int count = 96, int features = 20, int classes = 5) => Seeded(
        11, () => new InMemoryDataset(randn(count, features), randint(0, classes, [count])));

    public static Func<Tensor, Tensor, Tensor> CrossEntropy { get; } = static (output, labels) => nn.functional.cross_entropy(output, labels);

    public static float[] Parameters(nn.Module model) =>
        [.. model.parameters().SelectMany(static parameter => parameter.detach().to(ScalarType.Float32).cpu().contiguous().data<float>().ToArray())];

    public static float[][] Gradients(nn.Module model) =>
        [.. model.parameters().Select(static parameter => parameter.grad?.to(ScalarType.Float32).contiguous().data<float>().ToArray() ?? [])];

    public static void AssertClose(IReadOnlyList<float> expected, IReadOnlyList<float> actual, double relative, double absolute = 1e-7)
    {
        Assert.Equal(expected.Count, actual.Count);
        for (int i = 0; i < expected.Count; i++)
        {
            double allowed = absolute + (relative * Math.Abs(expected[i]));
            Assert.True(Math.Abs(expected[i] - actual[i]) <= allowed, $"element {i}: {actual[i]} instead of {expected[i]}, allowed difference {allowed}");
        }
    }
}
