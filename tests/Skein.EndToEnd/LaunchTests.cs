using System.Text.RegularExpressions;

namespace Skein.EndToEnd;

public sealed partial class LaunchTests
{
    private static readonly TimeSpan Prompt = TimeSpan.FromSeconds(5);

    [Fact]
    public async Task Lines_come_whole_in_order_and_with_their_rank()
    {
        var (code, output, errors) = await SkeinProcess.RunAsync(
            "launch", "-n", "3", "--", "sh", "-c", "for i in $(seq 300); do echo line $i; echo error $i >&2; done; printf unended");
        Assert.Equal(0, code);
        Assert.All(output.Concat(errors), line => Assert.Matches(Line(), line));
        foreach (var rank in Enumerable.Range(0, 3))
        {
            Assert.Equal([.. Enumerable.Range(1, 300).Select(i => $"[{rank}] line {i}"), $"[{rank}] unended"], Of(output, rank));
            Assert.Equal(Enumerable.Range(1, 300).Select(i => $"[{rank}] error {i}"), Of(errors, rank));
        }
    }

    [Fact]
    public async Task The_first_failing_rank_ends_the_job_with_its_code_and_last_lines()
    {
        await using var job = SkeinProcess.Start(
            "launch", "-n", "3", "--", "sh", "-c", "if [ $RANK = 1 ]; then echo last words >&2; exit 7; fi; sleep 600");
        Assert.Equal(7, await job.ExitAsync());
        Assert.Contains("skein: rank 1 exited with code 7; its last lines:", job.Errors);
        Assert.Equal("[1] last words", job.Errors[^1]);
        Assert.Empty(job.Descendants);
    }

    [Fact]
    public async Task A_rank_ended_by_a_signal_gives_128_plus_its_number()
    {
        var (code, _, errors) = await SkeinProcess.RunAsync("launch", "-n", "2", "--", "sh", "-c", "[ $RANK = 1 ] && kill -SEGV $$; sleep 600");
        Assert.Equal(139, code);
        Assert.Contains("skein: rank 1 was ended by signal 11 (SIGSEGV)", errors);
    }

    [Fact]
    public async Task Restarts_need_losses_that_are_tolerated()
    {
        var (code, _, errors) = await SkeinProcess.RunAsync("launch", "-n", "2", "--restarts", "2", "--", "true");
        Assert.Equal(2, code);
        Assert.Equal(["skein: --restarts is 2, which needs --tolerate-losses: without it the first failure ends the job"], errors);
    }

    [Theory]
    [InlineData(SkeinProcess.Interrupt)]
    [InlineData(SkeinProcess.Terminate)]
    public async Task An_interrupted_launcher_ends_even_workers_that_ignore_signals(int signal)
    {
        await using var job = SkeinProcess.Start(
            "launch", "-n", "2", "--", "sh", "-c", "trap '' INT TERM; echo ready; while :; do sleep 600; done");
        await job.WaitForLinesAsync(2, line => line.EndsWith("ready", StringComparison.Ordinal));
        job.Signal(signal);
        Assert.Equal(130, await job.ExitAsync(Prompt));
        Assert.Empty(job.Descendants);
    }

    [Theory]
    [InlineData(SkeinProcess.Interrupt, "INT")]
    [InlineData(SkeinProcess.Terminate, "TERM")]
    public async Task Workers_get_the_signal_that_the_launcher_got(int signal, string name)
    {
        await using var job = SkeinProcess.Start(
            "launch", "-n", "2", "--", "sh", "-c", $"trap 'echo told; exit 0' {name}; echo ready; while :; do sleep 0.05; done");
        await job.WaitForLinesAsync(2, line => line.EndsWith("ready", StringComparison.Ordinal));
        job.Signal(signal);
        Assert.Equal(130, await job.ExitAsync(Prompt));
        Assert.Equal(2, job.Output.Count(line => line.EndsWith("told", StringComparison.Ordinal)));
    }

    [Fact]
    public async Task Workers_die_with_a_launcher_that_was_killed()
    {
        await using var job = SkeinProcess.Start("launch", "-n", "2", "--", "sh", "-c", "setsid sleep 600 & echo ready; sleep 600");
        await job.WaitForLinesAsync(2, line => line.Contains("ready", StringComparison.Ordinal));
        job.Signal(SkeinProcess.Kill);
        await job.ExitAsync(Prompt);
        await job.NothingLeftAsync(Prompt);
    }

    [Fact]
    public async Task What_a_successful_rank_leaves_running_is_ended()
    {
        await using var job = SkeinProcess.Start("launch", "-n", "2", "--", "sh", "-c", "sleep 600 & setsid sleep 600 & echo done");
        Assert.Equal(0, await job.ExitAsync(TimeSpan.FromSeconds(20)));
        Assert.Empty(job.Descendants);
    }

    [Fact]
    public async Task Each_rank_gets_the_jobs_environment_and_its_secret_is_on_no_command_line()
    {
        await using var job = SkeinProcess.Start("launch", "-n", "2", "--", "sh", "-c", "echo ready; sleep 600");
        await job.WaitForLinesAsync(2, line => line.Contains("ready", StringComparison.Ordinal));
        var workers = job.Descendants.Select(SkeinProcess.Environ).Where(environ => environ.Any(line => line.StartsWith("RANK=", StringComparison.Ordinal))).ToList();
        var ranks = workers.Select(environ => Variable(environ, "RANK")).Distinct().Order();
        Assert.Equal(["0", "1"], ranks);
        Assert.All(workers, environ =>
        {
            Assert.Equal("2", Variable(environ, "WORLD_SIZE"));
            Assert.Equal(Variable(environ, "RANK"), Variable(environ, "LOCAL_RANK"));
            Assert.Equal("2", Variable(environ, "LOCAL_WORLD_SIZE"));
            Assert.Equal("127.0.0.1", Variable(environ, "MASTER_ADDR"));
            Assert.Equal("1", Variable(environ, "SKEIN_LAUNCHER_STORE"));
            Assert.Equal($"{Math.Max(1, Environment.ProcessorCount / 2)}", Variable(environ, "OMP_NUM_THREADS"));
        });
        var secret = Assert.Single(workers.Select(environ => Variable(environ, "SKEIN_JOB_SECRET")).Distinct());
        Assert.Equal(64, secret.Length);
        Assert.DoesNotContain(SkeinProcess.Processes(), id => SkeinProcess.CommandLine(id).Any(part => part.Contains(secret, StringComparison.Ordinal)));
        Assert.DoesNotContain(job.Output.Concat(job.Errors), line => line.Contains(secret, StringComparison.Ordinal));
    }

    private static string Variable(string[] environ, string name) =>
        environ.Single(line => line.StartsWith($"{name}=", StringComparison.Ordinal))[(name.Length + 1)..];

    private static IEnumerable<string> Of(string[] lines, int rank) => lines.Where(line => line.StartsWith($"[{rank}] ", StringComparison.Ordinal));

    [GeneratedRegex(@"^\[[0-2]\] ((line|error) \d+|unended)$")]
    private static partial Regex Line();
}
