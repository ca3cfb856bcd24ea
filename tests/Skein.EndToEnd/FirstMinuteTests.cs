using System.Text.Json;

namespace Skein.EndToEnd;

/// <summary>What whoever just installed Skein meets: commands without arguments, and data that are not there yet.</summary>
public sealed class FirstMinuteTests : IDisposable
{
    private const string Packages = "/usr/share/datasets";
    private static readonly string[] Images =
        ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz", "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"];

    private readonly string directory = Directory.CreateTempSubdirectory("skein-first-").FullName;

    public void Dispose() => Directory.Delete(directory, recursive: true);

    [Theory]
    [InlineData("1")]
    [InlineData("2")]
    public async Task Without_a_workload_digits_is_trained(string workers)
    {
        var run = Path.Combine(directory, "run");
        var (code, output, errors) = await SkeinProcess.RunAsync("train", "--workers", workers, "--max-steps", "3", "--json", "--run-dir", run);
        Assert.True(code == 0, string.Join('\n', errors));
        using var json = JsonDocument.Parse(output[^1]);
        Assert.Equal("digits", json.RootElement.GetProperty("workload").GetString());
        Assert.Equal(workers, json.RootElement.GetProperty("world_size").ToString());
        Assert.Equal(3, json.RootElement.GetProperty("steps").GetInt32());
    }

    [Fact]
    public async Task A_run_without_a_workload_and_a_folder_is_named_after_digits()
    {
        await using var training = SkeinProcess.StartProgram(
            "sh", [], "-c", "cd \"$1\" && exec dotnet \"$2\" train --max-steps 1", "sh", directory, SkeinProcess.Program);
        Assert.True(await training.ExitAsync() == 0, string.Join('\n', training.Errors));
        string run = Assert.Single(Directory.GetDirectories(Path.Combine(directory, "runs")));
        Assert.StartsWith("digits-", Path.GetFileName(run), StringComparison.Ordinal);
    }

    [Fact]
    public async Task Help_says_what_is_trained_by_default()
    {
        var (code, output, _) = await SkeinProcess.RunAsync("train", "--help");
        Assert.Equal(0, code);
        string argument = Assert.Single(output, line => line.TrimStart().StartsWith("<WORKLOAD>", StringComparison.Ordinal));
        Assert.EndsWith("[default: digits]", argument, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    public async Task A_proxy_that_refuses_is_one_line_and_code_1(int workers)
    {
        string cache = Directory.CreateDirectory(Path.Combine(directory, "cache")).FullName;
        const string Refusing = "http://127.0.0.1:1";
        await using var job = Start(
            [("XDG_CACHE_HOME", cache), ("http_proxy", Refusing), ("https_proxy", Refusing), ("SKEIN_DATA_DIR", null)],
            "train", "fashion-mnist", "--workers", $"{workers}", "--run-dir", Path.Combine(directory, "run"));
        Assert.Equal(1, await job.ExitAsync());
        string error = Assert.Single(job.Errors, line => line.StartsWith("skein: ", StringComparison.Ordinal));
        Assert.Equal(error, job.Errors[^1]);
        Assert.StartsWith("skein: Fashion-MNIST is not here and cannot be fetched (", error, StringComparison.Ordinal);
        Assert.Contains("Connection refused", error, StringComparison.Ordinal);
        Assert.False(Directory.Exists(Path.Combine(directory, "run")));
    }

    [Fact]
    public async Task Doctor_says_where_the_images_are_or_how_to_get_them()
    {
        JsonElement images = await ImagesAsync([("SKEIN_DATA_DIR", null), ("XDG_CACHE_HOME", directory)]);
        Assert.Equal("absent", images.GetProperty("status").GetString());
        Assert.EndsWith("skein train fashion-mnist --max-steps 1", images.GetProperty("remedy").GetString(), StringComparison.Ordinal);

        string folder = Directory.CreateDirectory(Path.Combine(directory, "skein", "fashion-mnist")).FullName;
        foreach (string image in Images) await File.WriteAllTextAsync(Path.Combine(folder, image), "");
        images = await ImagesAsync([("SKEIN_DATA_DIR", null), ("XDG_CACHE_HOME", directory)]);
        Assert.Equal("ok", images.GetProperty("status").GetString());
        Assert.Equal($"Fashion-MNIST is in {folder}", images.GetProperty("detail").GetString());

        images = await ImagesAsync([("SKEIN_DATA_DIR", directory)]);
        Assert.Equal("absent", images.GetProperty("status").GetString());
        Assert.Contains(directory, images.GetProperty("detail").GetString(), StringComparison.Ordinal);
    }

    private static async Task<JsonElement> ImagesAsync((string Name, string? Value)[] environment)
    {
        await using var doctor = Start(environment, "doctor", "--json");
        Assert.True(await doctor.ExitAsync() == 0, string.Join('\n', doctor.Errors));
        using var json = JsonDocument.Parse(doctor.Output[^1]);
        JsonElement checks = json.RootElement.GetProperty("checks");
        return checks.EnumerateArray().Single(check => check.GetProperty("name").GetString() == "images").Clone();
    }

    /// <summary>Starts the command where Debian's package of the images is not installed, or not to be seen.</summary>
    private static SkeinProcess Start((string Name, string? Value)[] environment, params string[] arguments)
    {
        if (!Directory.Exists(Packages)) return SkeinProcess.Start(environment, arguments);
        Assert.SkipUnless(Environment.IsPrivilegedProcess, $"needs root, to hide {Packages}");
        return SkeinProcess.StartProgram(
            "unshare", environment,
            ["--mount", "sh", "-c", $"mount -t tmpfs tmpfs {Packages} && exec \"$@\"", "sh", "dotnet", SkeinProcess.Program, .. arguments]);
    }
}
