using System.Text.Json;
using System.Text.RegularExpressions;

namespace Skein.EndToEnd;

/// <summary>Values of options are read in one way, and what makes no sense is named before anything starts.</summary>
public sealed class OptionValueTests : IDisposable
{
    private readonly string directory = Directory.CreateTempSubdirectory("skein-options-").FullName;

    public void Dispose() => Directory.Delete(directory, recursive: true);

    [Theory]
    [InlineData("argument '0,05' for option '--learning-rate': give a number", "train digits --learning-rate 0,05")]
    [InlineData("argument '1.000,5' for option '--learning-rate'", "train digits --learning-rate 1.000,5")]
    [InlineData("argument 'NaN' for option '--learning-rate'", "train digits --learning-rate NaN")]
    [InlineData("argument '1e400' for option '--learning-rate'", "train digits --learning-rate 1e400")]
    [InlineData("argument '1,0' for option '--epochs': give a whole number", "train digits --epochs 1,0")]
    [InlineData("argument '1,000' for option '--max-steps'", "train digits --max-steps 1,000")]
    [InlineData("argument '2,5' for option '--bucket-mib'", "train digits --bucket-mib 2,5")]
    [InlineData("argument '0,5' for option '--compression-clip'", "train digits --workers 2 --compression fp16 --compression-clip 0,5")]
    [InlineData("argument '0,5' for option '--delay-compensation'", "train digits --strategy parameter-server --delay-compensation 0,5")]
    [InlineData("argument '0,7' for option '--outer-learning-rate'", "train digits --outer-learning-rate 0,7")]
    [InlineData("argument '1,0' for option '--seed'", "train digits --seed 1,0")]
    [InlineData("argument '1,000' for option '--iterations'", "bench allreduce --iterations 1,000")]
    [InlineData("argument '0,5' for option '--temperature'", "generate here --prompt In --temperature 0,5")]
    [InlineData("argument '2,0' for option '--workers'", "plan digits --workers 2,0")]
    [InlineData("argument '1,0' for option '-n'", "launch -n 1,0 -- true")]
    [InlineData("--straggler is '0:1,5'", "train digits --straggler 0:1,5")]
    [InlineData("'0:1e308': give RANK:FACTOR, with a rank from 0 to 0 and a factor from 1 to 1000", "train digits --straggler 0:1e308")]
    [InlineData("--memory is '1,5GiB'", "plan digits --memory 1,5GiB")]
    [InlineData("--sizes has '1'", "bench allreduce --sizes 1,5KiB")]
    [InlineData("--sizes has '99999999999999GiB'", "bench allreduce --sizes 99999999999999GiB")]
    [InlineData("compression 'topk:0,1': RATIO is a number", "train digits --workers 2 --compression topk:0,1")]
    [InlineData("'random:2,0'", "train digits --workers 4 --strategy gossip --topology random:2,0")]
    [InlineData("--learning-rate is 1E+300: give a number above 0 and at most 1E+30", "train digits --learning-rate 1e300")]
    [InlineData("--bucket-mib is 1E-09: give a number from 0.001 to 1024", "train digits --bucket-mib 1e-9")]
    [InlineData("the outer learning rate is 1E+300", "train digits --strategy local-sgd --outer diloco --outer-learning-rate 1e300")]
    [InlineData("2147483647 tokens cannot be generated: give a whole number from 1 to 1000000", "generate x --prompt In --tokens 2147483647")]
    public async Task A_value_that_makes_no_sense_is_one_line_and_code_2(string message, string arguments)
    {
        (int code, string[] output, string[] errors) = await SkeinProcess.RunAsync(arguments.Split(' '));
        Assert.Contains(message, Assert.Single(errors), StringComparison.Ordinal);
        Assert.Equal(2, code);
        Assert.Empty(output);
    }

    [Fact]
    public async Task A_rule_of_the_compression_that_is_for_no_parameter_is_named()
    {
        (int code, _, string[] errors) = await SkeinProcess.RunAsync(
            "train", "digits", "--workers", "2", "--compression", "fp16;biases=none", "--run-dir", Run("rule"));
        Assert.Equal(2, code);
        Assert.StartsWith(
            "skein: --compression is fp16;biases=none, but no parameter of mlp has 'biases' in its name: they are ",
            Assert.Single(errors), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("--optimizer adam", 0.001)]
    [InlineData("--optimizer sgd", 0.05)]
    [InlineData("--optimizer adam --learning-rate 0.02", 0.02)]
    [InlineData("--seed 1", 0.05)]
    public async Task The_workloads_learning_rate_is_for_its_own_kind_of_optimizer(string options, double expected)
    {
        await TrainingResult.RunAsync(["digits", "--max-steps", "1", "--run-dir", Run("rate"), .. options.Split(' ')]);
        JsonElement config = TrainingResult.Parse(await File.ReadAllTextAsync(Path.Combine(Run("rate"), "config.json")));
        Assert.Equal(expected, config.GetProperty("learning_rate").GetDouble());
    }

    [Theory]
    [InlineData("--workers 1", "on rank 0")]
    [InlineData("--workers 2", "on (every rank|rank [01])")]
    [InlineData("--workers 2 --strategy sharded", "on (every rank|rank [01])")]
    [InlineData("--workers 3 --strategy gossip", "on rank [012]")]
    [InlineData("--workers 2 --strategy local-sgd", "on rank [01]")]
    public async Task A_run_that_diverges_fails_and_says_where(string options, string where)
    {
        (int code, _, string[] errors) = await SkeinProcess.RunAsync(
        [
            "train", "digits", "--batch-size", "48", "--learning-rate", "1e30", "--max-steps", "40", "--run-dir", Run("diverged"),
            .. options.Split(' '),
        ]);
        Assert.Equal(1, code);
        string expected = $"training diverged: the loss is -?(NaN|Infinity) in step [0-9]+ {where}; "
            + "give a --learning-rate below 1E\\+30, or --allow-non-finite to train on";
        Assert.Contains(errors, line => Regex.IsMatch(line, expected));
    }

    [Fact]
    public async Task A_run_that_may_diverge_ends_well_with_null_for_what_is_no_number()
    {
        (int code, string[] output, string[] errors) = await SkeinProcess.RunAsync(
            "train", "digits", "--learning-rate", "1e30", "--max-steps", "20", "--allow-non-finite", "--json", "--run-dir", Run("allowed"));
        Assert.True(code == 0, string.Join('\n', errors));
        JsonElement summary = TrainingResult.Parse(output[^1]);
        Assert.Equal(JsonValueKind.Null, summary.GetProperty("test_loss").ValueKind);
        Assert.Equal(JsonValueKind.Null, summary.GetProperty("loss_history")[19].ValueKind);
        Assert.Equal(JsonValueKind.Number, summary.GetProperty("loss_history")[0].ValueKind);
        foreach (string file in (string[])["summary.json", "metrics.jsonl"])
        {
            Assert.DoesNotContain("NaN", await File.ReadAllTextAsync(Path.Combine(Run("allowed"), file)), StringComparison.Ordinal);
        }
    }

    [Theory]
    [InlineData("train digits --workers 2", "--workers")]
    [InlineData("bench allreduce -n 2", "-n")]
    public async Task A_number_of_workers_that_the_launcher_has_not_started_is_refused(string arguments, string option)
    {
        await using SkeinProcess rank = SkeinProcess.Start([("RANK", "0"), ("WORLD_SIZE", "1")], arguments.Split(' '));
        Assert.Equal(2, await rank.ExitAsync());
        string expected = $"skein: {option} is 2, but this process was started as rank 0 of a job of 1: leave {option} out, or start 2 ranks";
        Assert.Equal(expected, Assert.Single(rank.Errors));
    }

    private string Run(string name) => Path.Combine(directory, name);
}
