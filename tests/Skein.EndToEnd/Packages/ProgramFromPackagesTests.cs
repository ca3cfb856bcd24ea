using System.Globalization;

namespace Skein.EndToEnd.Packages;

/// <summary>Programs of users in repositories of their own.</summary>
[Collection(nameof(PackageFeed))]
public sealed class ProgramFromPackagesTests(PackageFeed feed)
{
    private const string LibTorch = "libtorch-cpu-linux-x64";
    private const string LibTorchVersion = "2.10.0";

    // It uses TorchSharp before anything of Skein.
    private const string Sum = """
        using static TorchSharp.torch;

        internal static class Program
        {
            private static async Task<int> Main()
            {
                await Task.Yield();
                Console.WriteLine($"sum {ones(3).sum().item<float>():0}, threads {get_num_threads()}, {System.Runtime.GCSettings.LatencyMode}");
                return 0;
            }
        }
        """;

    private const string SumInFSharp = """
        open TorchSharp
        [<EntryPoint>]
        let main _ =
            printfn "sum %.0f" (torch.ones([|3L|]).sum().item<float32>())
            0
        """;

    [Fact]
    public async Task Without_LibTorch_the_build_says_which_package_is_missing()
    {
        string folder = await feed.WriteProgramAsync("lacks", Sum, ("Skein.Training", PackageFeed.Version));
        (int code, string[] output, _) = await PackageFeed.RunAsync("dotnet", folder, [], "build", "-c", "Release", "-v", "q", "--nologo");
        Assert.Equal(1, code);
        Assert.Contains(output, line => line.Contains($"error SKEIN001: lacks has no LibTorch for linux-x64: dotnet add package {LibTorch} --version {LibTorchVersion}", StringComparison.Ordinal));

        (code, output, _) = await PackageFeed.RunAsync("dotnet", folder, [], "build", "-c", "Release", "-v", "q", "--nologo", "-r", "linux-arm64", "--self-contained", "false");
        Assert.Equal(1, code);
        Assert.Contains(output, line => line.Contains("error SKEIN002: there is no LibTorch for linux-arm64", StringComparison.Ordinal));

        // The command says the same in the program's folder.
        (code, output, _) = await PackageFeed.RunAsync("dotnet", folder, [], SkeinProcess.Program, "doctor");
        Assert.Equal(1, code);
        Assert.Contains(output, line => line.Contains("lacks.csproj has no LibTorch", StringComparison.Ordinal));
        Assert.Contains(output, line => line.Contains($"dotnet add package {LibTorch} --version {LibTorchVersion}", StringComparison.Ordinal));
    }

    [Fact]
    public async Task Another_LibTorch_than_TorchSharps_is_named_when_the_program_is_built()
    {
        feed.OfferOtherLibTorch("2.9.9");
        string folder = await feed.WriteProgramAsync("other", Sum, ("Skein.Training", PackageFeed.Version), (LibTorch, "2.9.9"));
        (int code, string[] output, _) = await PackageFeed.RunAsync("dotnet", folder, [], "build", "-c", "Release", "-v", "q", "--nologo");
        Assert.Equal(1, code);
        Assert.Contains(output, line => line.Contains(
            $"error SKEIN003: other references {LibTorch} 2.9.9, but TorchSharp was built for LibTorch {LibTorchVersion}: reference that version", StringComparison.Ordinal));

        (code, output, _) = await PackageFeed.RunAsync("dotnet", folder, [], SkeinProcess.Program, "doctor");
        Assert.Equal(1, code);
        Assert.Contains(output, line => line.Contains($"other.csproj references {LibTorch} 2.9.9", StringComparison.Ordinal));
    }

    [Fact]
    public async Task Without_LibTorch_anywhere_each_of_two_ranks_says_so_in_one_line_and_copies_nothing()
    {
        string folder = await feed.WriteProgramAsync("nowhere", Sum, ("Skein.Training", PackageFeed.Version));
        await PackageFeed.DotnetAsync(folder, [], "build", "-c", "Release", "-v", "q", "-p:SkeinChecksLibTorch=false");
        string program = Path.Combine(folder, "bin", "Release", "net10.0", "nowhere.dll");
        string[] before = Directory.GetFileSystemEntries(Path.GetDirectoryName(program)!);
        string empty = feed.MakeFolder("empty");
        for (int again = 0; again < 2; again++)
        {
            (int code, string[] output, string[] errors) = await PackageFeed.RunAsync(
                "dotnet", folder, [("NUGET_PACKAGES", empty), ("XDG_CACHE_HOME", empty)], SkeinProcess.Program, "launch", "-n", "2", "--", "dotnet", program);
            Assert.Equal(1, code);
            Assert.Empty(output);
            Assert.Contains(errors, line => line.EndsWith($"skein: LibTorch {LibTorchVersion} is not part of this program: dotnet add package {LibTorch} --version {LibTorchVersion}", StringComparison.Ordinal));
            Assert.DoesNotContain(errors, line => line.Contains("   at ", StringComparison.Ordinal));
            Assert.Equal(before, Directory.GetFileSystemEntries(Path.GetDirectoryName(program)!));
        }
    }

    [Fact]
    public async Task Only_ranks_have_their_process_tuned()
    {
        string folder = await feed.WriteProgramAsync("sums", Sum, ("Skein.Training", PackageFeed.Version), (LibTorch, LibTorchVersion));
        await PackageFeed.DotnetAsync(folder, [], "build", "-c", "Release", "-v", "q");
        string program = Path.Combine(folder, "bin", "Release", "net10.0", "sums.dll");

        string alone = Assert.Single(await PackageFeed.DotnetAsync(folder, [("OMP_NUM_THREADS", null)], program));
        Assert.StartsWith("sum 3, ", alone, StringComparison.Ordinal);
        Assert.EndsWith("Interactive", alone, StringComparison.Ordinal);

        // Started by hand or by another's launcher, ranks divide the cores too.
        int share = Math.Max(1, Environment.ProcessorCount / 2);
        string rank = Assert.Single(await PackageFeed.DotnetAsync(
            folder, [("OMP_NUM_THREADS", null), ("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "2")], program));
        Assert.Equal(string.Create(CultureInfo.InvariantCulture, $"sum 3, threads {share}, Batch"), rank);

        await PackageFeed.DotnetAsync(folder, [], "build", "-c", "Release", "-v", "q", "-p:SkeinTunesProcess=false");
        string service = Assert.Single(await PackageFeed.DotnetAsync(folder, [("OMP_NUM_THREADS", null), ("RANK", "0"), ("WORLD_SIZE", "1")], program));
        Assert.EndsWith("Interactive", service, StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_program_in_FSharp_works_as_well()
    {
        string folder = await feed.WriteProgramAsync("fsharp", SumInFSharp, ("Skein.Training", PackageFeed.Version), (LibTorch, LibTorchVersion));
        await PackageFeed.DotnetAsync(folder, [], "build", "-c", "Release", "-v", "q");
        Assert.Equal(["sum 3"], await PackageFeed.DotnetAsync(folder, [], Path.Combine(folder, "bin", "Release", "net10.0", "fsharp.dll")));
    }

    [Theory]
    // Its model begins as it happens to.
    [InlineData("QuickStart", 0.04)]
    [InlineData("OwnLoop", 0)]
    [InlineData("OwnData", 0)]
    [InlineData("ParameterServers", 0)]
    public async Task A_sample_that_is_built_from_packages_says_what_it_says_in_the_checkout(string sample, double tolerance)
    {
        string program = await feed.BuildSampleAsync(sample);
        string here = Assert.Single(await PackageFeed.DotnetAsync(AppContext.BaseDirectory, [], SampleTests.PathOf(sample)));
        string there = Assert.Single(await PackageFeed.DotnetAsync(Path.GetDirectoryName(program)!, [], program));
        double[] expected = SampleTests.Numbers(here);
        Assert.Equal(expected.Length, SampleTests.Numbers(there).Length);
        Assert.All(SampleTests.Numbers(there), (number, i) => Assert.Equal(expected[i], number, tolerance));
    }

    [Fact]
    public async Task The_service_that_is_built_from_packages_trains_and_its_process_is_left_alone()
    {
        string program = await feed.BuildSampleAsync("HostedService");
        Assert.DoesNotContain("System.GC.Concurrent", await File.ReadAllTextAsync(Path.ChangeExtension(program, "runtimeconfig.json")), StringComparison.Ordinal);
        await using var service = SkeinProcess.StartProgram("dotnet", [], program);
        await service.WaitForLinesAsync(1, static line => line.Contains("] trained 150 steps", StringComparison.Ordinal));
        service.Signal(SkeinProcess.Terminate);
        Assert.Equal(0, await service.ExitAsync());
    }

    [Fact]
    public async Task The_templates_program_trains_on_two_processes_as_on_one()
    {
        string folder = feed.MakeFolder("Mine"), home = feed.MakeFolder("template-home");
        (string, string?)[] environment = [("DOTNET_CLI_HOME", home)];
        await PackageFeed.DotnetAsync(folder, environment, "new", "install", Path.Combine(feed.Folder, $"Skein.Templates.{PackageFeed.Version}.nupkg"));
        await PackageFeed.DotnetAsync(folder, environment, "new", "skein-train");
        await PackageFeed.DotnetAsync(folder, environment, "build", "-c", "Release", "-v", "q");
        string program = Path.Combine("bin", "Release", "net10.0", "Mine.dll");
        string alone = Assert.Single(await PackageFeed.DotnetAsync(folder, environment, program));
        Assert.StartsWith("1 ranks, 1000 steps, accuracy 0.9", alone, StringComparison.Ordinal);

        await PackageFeed.DotnetAsync(folder, environment, "tool", "restore");
        string[] output = await PackageFeed.DotnetAsync(folder, environment, "skein", "launch", "-n", "2", "--", "dotnet", program);
        Assert.Equal($"[0] 2{alone[1..]}", Assert.Single(output));
        Assert.True(new FileInfo(Path.Combine(folder, "model.dat")).Length > 10_000);
    }

    [Fact]
    public async Task The_tool_brings_LibTorch_on_first_need()
    {
        await feed.OfferLibTorchAsync();
        string folder = feed.MakeFolder("tool"), home = feed.MakeFolder("home");
        (string, string?)[] environment = [("HOME", home), ("NUGET_PACKAGES", null), ("XDG_CACHE_HOME", null), ("DOTNET_CLI_HOME", home)];
        await PackageFeed.DotnetAsync(folder, environment, "tool", "install", "Skein.Cli", "--version", PackageFeed.Version, "--tool-path", Path.Combine(folder, "bin"));
        string skein = Path.Combine(folder, "bin", "skein");

        (int code, string[] output, string[] errors) = await PackageFeed.RunAsync(skein, folder, environment, "train", "digits", "--workers", "2", "--epochs", "1");
        Assert.True(code == 0, string.Join('\n', errors));
        Assert.Contains(errors, line => line.StartsWith("fetching LibTorch, once: ", StringComparison.Ordinal));
        Assert.StartsWith("digits mlp, ddp on 2 workers: 30 steps", output[0], StringComparison.Ordinal);

        (code, _, errors) = await PackageFeed.RunAsync(skein, folder, environment, "doctor");
        Assert.True(code == 0, string.Join('\n', errors));
    }

    [Fact]
    public async Task What_cannot_be_brought_is_one_line()
    {
        string folder = feed.MakeFolder("offline"), empty = feed.MakeFolder("nothing");
        await File.WriteAllTextAsync(Path.Combine(folder, "nuget.config"), $"""
            <configuration><packageSources><clear /><add key="none" value="{empty}" /></packageSources></configuration>
            """);
        (int code, string[] output, string[] errors) = await PackageFeed.RunAsync(
            "dotnet", folder, [("HOME", empty), ("NUGET_PACKAGES", Path.Combine(empty, "packages")), ("XDG_CACHE_HOME", null)], SkeinProcess.Program, "train", "digits");
        Assert.Equal(1, code);
        Assert.Empty(output);
        string line = Assert.Single(errors, line => !line.StartsWith("fetching LibTorch", StringComparison.Ordinal));
        Assert.StartsWith($"skein: LibTorch {LibTorchVersion} is not here and its package {LibTorch} could not be brought: NU1", line, StringComparison.Ordinal);
        Assert.EndsWith("try again with skein doctor --fix when that is mended", line, StringComparison.Ordinal);
    }
}
