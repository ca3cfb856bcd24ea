using System.Text.Json;

namespace Skein.EndToEnd;

public sealed class CommandLineTests
{
    [Theory]
    [InlineData("no command", "skein: Required command was not provided")]
    [InlineData("unknown command", "skein: unknown command or option 'tarin'", "tarin")]
    [InlineData("unknown option", "skein: unknown command or option '--bogus'", "train", "digits", "--bogus")]
    [InlineData("no number", "skein: Cannot parse argument 'two' for option '--workers'", "train", "digits", "--workers", "two")]
    [InlineData("no workers", "skein: --workers is 0: give a whole number from 1", "train", "digits", "--workers", "0")]
    [InlineData("no processes", "skein: -n is 0: give a whole number from 1", "launch", "-n", "0", "--", "true")]
    [InlineData("no -n", "skein: Option '-n' is required", "launch", "--", "true")]
    [InlineData("node beyond", "skein: --node-rank is 2, but --nodes is 2", "launch", "-n", "1", "--nodes", "2", "--node-rank", "2", "--", "true")]
    [InlineData("no rendezvous", "skein: --nodes is 2: give --rendezvous HOST:PORT too", "launch", "-n", "1", "--nodes", "2", "--", "true")]
    [InlineData("bad rendezvous", "skein: --rendezvous is 'here': give HOST:PORT", "launch", "-n", "1", "--rendezvous", "here", "--", "true")]
    public async Task Bad_usage_is_one_line_and_code_2(string what, string message, params string[] arguments)
    {
        var (code, output, errors) = await SkeinProcess.RunAsync(arguments);
        Assert.True(code == 2, $"{what}: exit code {code}");
        Assert.Empty(output);
        Assert.StartsWith(message, Assert.Single(errors), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("no-such-program", "skein: no program 'no-such-program' on PATH")]
    [InlineData("./no-such-program", "skein: no such program: ./no-such-program")]
    [InlineData("/etc/passwd", "skein: /etc/passwd is not executable")]
    public async Task A_program_that_cannot_be_started_is_one_line_and_code_1(string program, string message)
    {
        var (code, _, errors) = await SkeinProcess.RunAsync("launch", "-n", "4", "--", program);
        Assert.Equal(1, code);
        Assert.StartsWith(message, Assert.Single(errors), StringComparison.Ordinal);
    }

    [Fact]
    public async Task Verbose_adds_the_stack_trace()
    {
        var (_, _, errors) = await SkeinProcess.RunAsync("launch", "-n", "1", "--verbose", "--", "no-such-program");
        Assert.Contains(errors, line => line.StartsWith("   at Skein.", StringComparison.Ordinal));
    }

    [Fact]
    public async Task A_programs_own_options_are_its_own()
    {
        var (code, output, _) = await SkeinProcess.RunAsync("launch", "-n", "1", "--", "echo", "--json", "-n", "@file", "--", "--nodes");
        Assert.Equal(0, code);
        Assert.Equal(["[0] --json -n @file -- --nodes"], output);
    }

    [Fact]
    public async Task Doctor_tries_a_mesh_and_says_which_rank_is_where()
    {
        var (code, output, errors) = await SkeinProcess.RunAsync("doctor", "--mesh", "dp=2,tp=3", "--json");
        Assert.True(code == 0, string.Join('\n', errors));
        using var json = JsonDocument.Parse(output[^1]);
        var mesh = json.RootElement.GetProperty("checks").EnumerateArray().Last();
        Assert.Equal("ok", mesh.GetProperty("status").GetString());
        var grid = mesh.GetProperty("detail").GetString()!.Split('\n', StringSplitOptions.TrimEntries);
        Assert.Equal("mesh dp=2,pp=1,tp=3", grid[0]);
        Assert.Equal("rank 4: dp 1, pp 0, tp 1", grid[5]);

        (code, _, errors) = await SkeinProcess.RunAsync("doctor", "--mesh", "dp=2,up=2");
        Assert.Equal(2, code);
        Assert.Equal(["skein: mesh 'dp=2,up=2' has the part 'up=2': give dp=N,pp=N,tp=N with whole numbers from 1"], errors);
    }

    [Fact]
    public async Task Doctor_is_green_and_says_so_in_json()
    {
        var (code, output, errors) = await SkeinProcess.RunAsync("doctor", "--json");
        Assert.True(code == 0, string.Join('\n', errors));
        using var json = JsonDocument.Parse(output[^1]);
        Assert.True(json.RootElement.GetProperty("ok").GetBoolean());
        var checks = json.RootElement.GetProperty("checks").EnumerateArray().ToDictionary(
            check => check.GetProperty("name").GetString()!, check => check.GetProperty("status").GetString());
        Assert.All(["runtime", "cpu", "libtorch", "tcp", "ports", "shm"], name => Assert.Equal("ok", checks[name]));
        Assert.All(["mpi", "gpu", "redis"], name => Assert.Contains(checks[name], (string[])["ok", "absent"]));
    }
}
