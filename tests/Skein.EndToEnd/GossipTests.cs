namespace Skein.EndToEnd;

/// <summary>Decentralised training over real processes.</summary>
public sealed class GossipTests : IDisposable
{
    private readonly string directory = Directory.CreateTempSubdirectory("skein-gossip-").FullName;

    public void Dispose() => Directory.Delete(directory, recursive: true);

    [Fact]
    public async Task A_ring_of_three_trains_and_tells_how_far_its_peers_were_apart()
    {
        var result = await TrainingResult.RunAsync(
            "digits", "--strategy", "gossip", "--topology", "ring", "--workers", "3", "--batch-size", "48", "--epochs", "5", "--run-dir", Path.Combine(directory, "run"));
        Assert.Equal("gossip", result.GetProperty("strategy").GetString());
        Assert.Equal("ring", result.GetProperty("topology").GetString());
        // Of three peers, everyone is everyone's neighbour.
        Assert.Equal(1, result.GetProperty("spectral_gap").GetDouble(), 1e-9);
        Assert.InRange(result.GetProperty("consensus_distance").GetDouble(), 1e-9, 10);
        double[][] history = result.Numbers<double[]>("consensus_history");
        Assert.Equal(result.GetProperty("steps").GetInt64() / 10, history.Length);
        Assert.Equal(history.Select((_, index) => (index + 1) * 10.0), history.Select(static pair => pair[0]));
        Assert.InRange(result.GetProperty("test_accuracy").GetDouble(), 0.85, 1);
    }

    [Fact]
    public async Task Compression_sends_fewer_bytes_and_skewed_shares_are_learnt_from()
    {
        string[] options = ["digits", "--strategy", "gossip", "--topology", "exponential", "--workers", "2", "--batch-size", "48", "--epochs", "5"];
        var plain = await TrainingResult.RunAsync([.. options, "--run-dir", Path.Combine(directory, "plain")]);
        var compressed = await TrainingResult.RunAsync(
            [.. options, "--compression", "topk:0.1", "--partition", "dirichlet:0.5", "--run-dir", Path.Combine(directory, "compressed")]);
        Assert.True(compressed.GetProperty("bytes_sent_per_worker").GetInt64() < 0.6 * plain.GetProperty("bytes_sent_per_worker").GetInt64());
        Assert.Equal("topk:0.1", compressed.GetProperty("compression").GetString());
        Assert.InRange(compressed.GetProperty("test_accuracy").GetDouble(), 0.7, 1);
    }

    [Theory]
    [InlineData("skein: unknown topology 'star': give ring, grid, exponential, random:DEGREE or complete, with a whole number from 1 as DEGREE", "--topology", "star")]
    [InlineData("skein: the topology is random:3, but 5 peers with 3 neighbours each make 15 ends of links, an odd number: give an even degree, or an even number of peers", "--topology", "random:3")]
    [InlineData("skein: the consensus step is 2: give a number above 0 and at most 1", "--consensus-step", "2")]
    [InlineData("skein: unknown partition 'even': give iid, or dirichlet:ALPHA with a number above 0", "--partition", "even")]
    [InlineData("skein: the compression is powersgd:2, which gossip has not: give none, fp16, bf16, int8, qsgd:BITS, topk:RATIO, randomk:RATIO or signsgd", "--compression", "powersgd:2")]
    public async Task What_does_not_fit_is_one_line(string message, params string[] options)
    {
        await using var process = SkeinProcess.Start(["train", "digits", "--strategy", "gossip", "--workers", "5", "--batch-size", "50", .. options]);
        Assert.Equal(2, await process.ExitAsync());
        Assert.Equal(message, Assert.Single(process.Errors));
        Assert.Empty(process.Output);
    }
}
