using System.Text.Json;

namespace Skein.EndToEnd;

/// <summary><c>skein plan</c>, with its measurements and the command that it proposes.</summary>
public sealed class PlanTests
{
    private static readonly string[] Digits = ["plan", "digits", "--workers", "2"];

    [Fact]
    public async Task Plans_are_ranked_and_the_best_one_trains()
    {
        JsonElement report = await PlanAsync("--memory", "2GiB", "--check", "8");
        JsonElement[] plans = [.. report.GetProperty("plans").EnumerateArray()];
        Assert.Equal("digits", report.GetProperty("workload").GetString());
        Assert.All(plans, static plan => Assert.True(plan.GetProperty("fits").GetBoolean()));
        double[] seconds = [.. plans.Select(static plan => plan.GetProperty("step_seconds").GetDouble())];
        Assert.Equal(seconds.Order(), seconds);
        foreach (string mesh in new[] { "dp=2,pp=1,tp=1", "dp=1,pp=2,tp=1", "dp=1,pp=1,tp=2" }) Assert.Contains(plans, plan => plan.GetProperty("mesh").GetString() == mesh);
        Assert.Equal([1, 2, 3], plans.Select(static plan => plan.GetProperty("zero")).Where(static zero => zero.ValueKind == JsonValueKind.Number).Select(static zero => zero.GetInt32()).Order());

        JsonElement check = report.GetProperty("check");
        Assert.Equal(8, check.GetProperty("steps").GetInt32());
        Assert.Equal(seconds[0], check.GetProperty("predicted_step_seconds").GetDouble());
        Assert.InRange(check.GetProperty("step_seconds").GetDouble(), 1e-6, 10);
        double memory = check.GetProperty("memory_bytes").GetDouble();
        Assert.InRange(check.GetProperty("predicted_memory_bytes").GetDouble(), memory * 0.7, memory * 1.3);

        string[] command = plans[0].GetProperty("command").GetString()!.Split(' ');
        Assert.Equal(["skein", "train"], command[..2]);
        JsonElement job = await TrainingResult.RunAsync([.. command[2..], "--max-steps", "2"]);
        Assert.Equal(2, job.GetProperty("steps").GetInt32());
        Assert.Equal(2, job.GetProperty("workers").GetInt32());
    }

    [Fact]
    public async Task Over_a_slow_link_the_gradients_take_their_time()
    {
        // 9,610 parameters of 4 bytes at 100 kB/s.
        JsonElement report = await PlanAsync("--bandwidth", "800Kbit");
        JsonElement replicas = report.GetProperty("plans").EnumerateArray().First(static plan => plan.GetProperty("mesh").GetString() == "dp=2,pp=1,tp=1" && plan.GetProperty("zero").ValueKind == JsonValueKind.Null);
        double bytes = report.GetProperty("plans").EnumerateArray().Max(static plan => plan.GetProperty("bytes_per_step").GetDouble());
        Assert.InRange(replicas.GetProperty("step_seconds").GetDouble(), replicas.GetProperty("bytes_per_step").GetDouble() / 100_000 * 0.99, bytes / 100_000 * 2);
    }

    [Fact]
    public async Task Too_little_memory_is_one_line_and_code_1()
    {
        var (code, _, errors) = await SkeinProcess.RunAsync([.. Digits, "--memory", "1MiB", "--bandwidth", "1Gbit", "--json"]);
        Assert.Equal(1, code);
        Assert.StartsWith("skein: nothing fits into 1 MiB a worker: the smallest, ", Assert.Single(errors), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("skein: --memory is '24': give a number above 0 and its unit, as in 24GiB", "--memory", "24")]
    [InlineData("skein: --memory is '0GiB': give a number above 0 and its unit", "--memory", "0GiB")]
    [InlineData("skein: unknown model of digits 'none'; choose one ", "--model", "none")]
    [InlineData("skein: --workers is 0: give a whole number from 1", "--workers", "0")]
    [InlineData("skein: ", "--bandwidth", "fast")]
    [InlineData("skein: --latency needs --bandwidth", "--latency", "1ms")]
    [InlineData("skein: --check is 2: give at least 4 steps", "--check", "2")]
    public async Task Bad_usage_is_one_line_and_code_2(string message, params string[] arguments)
    {
        var (code, output, errors) = await SkeinProcess.RunAsync(["plan", "digits", .. arguments]);
        Assert.Equal(2, code);
        Assert.Empty(output);
        Assert.StartsWith(message, Assert.Single(errors), StringComparison.Ordinal);
    }

    private static async Task<JsonElement> PlanAsync(params string[] arguments)
    {
        var (code, output, errors) = await SkeinProcess.RunAsync([.. Digits, .. arguments, "--json"]);
        Assert.True(code == 0, string.Join('\n', errors));
        return TrainingResult.Parse(output[^1]);
    }
}
