using System.IO.Compression;
using static TorchSharp.torch;

namespace Skein.Workloads.Tests;

public sealed class FashionMnistTests : IDisposable
{
    private static readonly Workload Fashion = Workload.Find("fashion-mnist")!;
    private readonly string directory = Directory.CreateTempSubdirectory("skein-test-").FullName;

    public void Dispose() => Directory.Delete(directory, recursive: true);

    [Fact]
    public async Task Holds_the_published_images()
    {
        Assert.SkipUnless(FashionMnistFiles.Published.Find() is not null, "needs the images: skein train fashion-mnist --max-steps 1");
        using WorkloadData data = await Fashion.LoadDataAsync(CancellationToken.None);
        Assert.Equal([60000L, 1, 28, 28], data.Train.Features.shape);
        Assert.Equal([10000L, 1, 28, 28], data.Test.Features.shape);
        Assert.Equal(Enumerable.Repeat(6000L, 10), data.Train.Labels.bincount(null).data<long>().ToArray());
        Assert.Equal(Enumerable.Repeat(1000L, 10), data.Test.Labels.bincount(null).data<long>().ToArray());

        // Normalized, so mean 0 and standard deviation 1 over the training images; sampled here every sixth.
        (Tensor features, Tensor labels) = data.Train.Gather(arange(0, 60000, 6), CPU);
        Assert.Equal(ScalarType.Float32, features.dtype);
        Assert.Equal(0, features.mean().item<float>(), 0.01);
        Assert.Equal(1, features.std().item<float>(), 0.01);
        Assert.Equal(10000, labels.shape[0]);
        Assert.Equal(9, data.Train.Labels[0].item<long>());
    }

    [Theory]
    [InlineData("mlp", 784 * 512 + 512 + 512 * 512 + 512 + 512 * 10 + 10)]
    [InlineData("cnn", 16 * 9 + 16 + 32 * 16 * 9 + 32 + 1568 * 128 + 128 + 128 * 10 + 10)]
    // He et al. 2016 with a 3×3 stem on one channel and ten classes: 11,173,962 for three channels, less 2 · 64 · 9.
    [InlineData("resnet18", 11_172_810)]
    public void Models_have_the_published_sizes(string name, long parameters)
    {
        using nn.Module<Tensor, Tensor> model = Fashion.CreateModel(name, 1);
        Assert.Equal(parameters, model.parameters().Sum(parameter => parameter.numel()));
        Tensor output = model.call(randn(2, 1, 28, 28));
        Assert.Equal([2L, 10], output.shape);
        nn.functional.cross_entropy(output, tensor(new long[] { 0, 9 })).backward();
        Assert.All(model.parameters(), parameter => Assert.True(parameter.grad!.isfinite().all().item<bool>()));
    }

    [Fact]
    public void Learning_rate_grows_to_its_value()
    {
        var settings = new Hyperparameters(1, 1, "sgd", 1, WarmupSteps: 4);
        Assert.Equal([0.25, 0.5, 0.75, 1, 1], Enumerable.Range(0, 5).Select(step => settings.LearningRateAt(step, 1)));
        Assert.Equal(0.3, (settings with { WarmupSteps = 0 }).LearningRateAt(0, 0.3));
    }

    [Fact]
    public void Damaged_files_are_refused()
    {
        string path = Path.Combine(directory, "images.gz");
        byte[] good = Idx([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6]);
        File.WriteAllBytes(path, good);
        Assert.Equal([1, 2, 3, 4, 5, 6], IdxFile.Read(path, 2, 3).data<byte>().ToArray());
        Assert.Contains("shape [3, 3]", Assert.Throws<InvalidDataException>(() => IdxFile.Read(path, 3, 3)).Message, StringComparison.Ordinal);

        File.WriteAllBytes(path, Idx([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3]));
        Assert.Contains("damaged", Assert.Throws<InvalidDataException>(() => IdxFile.Read(path, 2, 3)).Message, StringComparison.Ordinal);
        File.WriteAllText(path, "not gzip");
        Assert.Contains("damaged", Assert.Throws<InvalidDataException>(() => IdxFile.Read(path, 2, 3)).Message, StringComparison.Ordinal);
    }

    private static byte[] Idx(byte[] content)
    {
        var result = new MemoryStream();
        using (var gzip = new GZipStream(result, CompressionLevel.Fastest)) gzip.Write(content);
        return result.ToArray();
    }
}
