using System.Runtime.InteropServices;
using Skein.Training.LibTorch;
using static TorchSharp.torch;

namespace Skein.Training.Tests;

public sealed class LibTorchTests
{
    // As the package ships it: the folder that the program's own native libraries are looked up in.
    private static readonly string ShippedBinding = ((string)AppContext.GetData("NATIVE_DLL_SEARCH_DIRECTORIES")!)
        .Split(Path.PathSeparator)
        .Select(folder => Path.Combine(folder, "libLibTorchSharp.so"))
        .First(File.Exists);

    [Fact]
    public void Loads_from_one_shared_folder()
    {
        LibTorchStatus status = NativeLibTorch.Status;
        Assert.Null(status.Problem);
        Assert.Equal("2.10.0", status.Version);
        Assert.Equal(LibTorchPackage.Version, status.Version);
        Assert.Equal(LibTorchPackage.FindIn(LibTorchPackage.Cache), status.Directory);
        Assert.False(File.Exists(Path.Combine(AppContext.BaseDirectory, "runtimes", "linux-x64", "native", "libtorch_cpu.so")));
        // Another test maps a copy of its own, and deletes it.
        string[] mapped = [.. File.ReadLines("/proc/self/maps").Where(line => line.Contains("libLibTorchSharp") && !line.EndsWith("(deleted)", StringComparison.Ordinal)).Select(line => line[line.IndexOf('/')..]).Distinct()];
        Assert.Equal([status.Binding!], mapped);
        Assert.Equal(status.Rewritten, status.Binding != ShippedBinding);
    }

    [Fact]
    public void Loaded_library_learns()
    {
        // Least squares on y = 2x - 1 has one minimum; gradient descent with step 0.1 reaches it.
        Tensor x = tensor(new float[] { -1, 0, 1, 2 }).reshape(4, 1);
        Tensor y = tensor(new float[] { -3, -1, 1, 3 }).reshape(4, 1);
        using var model = nn.Linear(1, 1);
        using var optimizer = optim.SGD(model.parameters(), 0.1);
        for (int step = 0; step < 400; step++)
        {
            optimizer.zero_grad();
            nn.functional.mse_loss(model.forward(x), y).backward();
            optimizer.step();
        }

        Assert.Equal(2, model.weight.item<float>(), 1e-4f);
        Assert.Equal(-1, model.bias!.item<float>(), 1e-4f);
        Assert.Equal([19f, 22f, 43f, 50f], matmul(tensor(new float[,] { { 1, 2 }, { 3, 4 } }), tensor(new float[,] { { 5, 6 }, { 7, 8 } })).data<float>().ToArray());
        // Equal logits over two classes: minus the logarithm of one half.
        Assert.Equal(Math.Log(2), nn.functional.cross_entropy(zeros(1, 2), tensor(new long[] { 1 })).item<float>(), 1e-6);
    }

    [Fact]
    public void Rewritten_library_asks_for_nothing_newer_and_still_loads()
    {
        byte[] shipped = File.ReadAllBytes(ShippedBinding);
        Assert.Contains(GlibcxxRewrite.MissingVersion, GlibcxxRewrite.RequiredVersions(shipped));

        byte[] rewritten = GlibcxxRewrite.Apply(shipped);
        Assert.DoesNotContain(GlibcxxRewrite.MissingVersion, GlibcxxRewrite.RequiredVersions(rewritten));
        Assert.Equal(GlibcxxRewrite.RequiredVersions(shipped).Count, GlibcxxRewrite.RequiredVersions(rewritten).Count);
        Assert.Equal(shipped.Length, rewritten.Length);
        Assert.InRange(shipped.Zip(rewritten).Count(pair => pair.First != pair.Second), 1, 14);

        string copy = Path.Combine(Directory.CreateTempSubdirectory("skein-test-").FullName, "libLibTorchSharp.so");
        File.WriteAllBytes(copy, rewritten);
        nint library = NativeLibrary.Load(copy);
        Assert.NotEqual(0, NativeLibrary.GetExport(library, "THSTensor_new"));
        Directory.Delete(Path.GetDirectoryName(copy)!, recursive: true);
    }

    [Fact]
    public void Another_symbol_of_the_missing_version_is_refused()
    {
        byte[] rewritten = GlibcxxRewrite.Apply(File.ReadAllBytes(ShippedBinding));
        Assert.Contains("is not asked for", Assert.Throws<InvalidDataException>(() => GlibcxxRewrite.Apply(rewritten)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Malformed_files_are_refused()
    {
        byte[] shipped = File.ReadAllBytes(ShippedBinding);
        Assert.Throws<InvalidDataException>(() => GlibcxxRewrite.Apply([]));
        Assert.Throws<InvalidDataException>(() => GlibcxxRewrite.Apply("MZ not an ELF file"u8));
        foreach (int length in (int[])[5, 63, 1000, shipped.Length / 2, shipped.Length - 1])
        {
            Assert.Throws<InvalidDataException>(() => GlibcxxRewrite.Apply(shipped.AsSpan(0, length)));
        }

        // Noise in the headers and tables ends in a refusal or in a result, never in another error or an endless loop.
        var random = new Random(1);
        for (int round = 0; round < 300; round++)
        {
            byte[] damaged = (byte[])shipped.Clone();
            int table = round % 3 == 0 ? 0 : round % 3 == 1 ? 0x3f8f0 : 0x249360;
            int size = round % 3 == 0 ? 64 : round % 3 == 1 ? 0x210 : 31 * 64;
            for (int hit = 0; hit < 4; hit++)
            {
                damaged[table + random.Next(size)] = (byte)random.Next(256);
            }

            Exception? error = Record.Exception(() => GlibcxxRewrite.Apply(damaged));
            Assert.True(error is null or InvalidDataException, $"round {round}: {error}");
        }
    }
}
