namespace Skein.EndToEnd;

/// <summary>Whole jobs over encrypted connections: every kind of connection that a job has.</summary>
public sealed class EncryptionTests : IDisposable
{
    private readonly string directory = Directory.CreateTempSubdirectory("skein-encryption-").FullName;

    public void Dispose() => Directory.Delete(directory, recursive: true);

    [Theory]
    [InlineData("ddp", "--transport", "tcp")]
    [InlineData("parameter-server", "--replicas", "2")]
    public async Task A_job_gives_the_bits_that_it_gives_in_the_clear(string strategy, params string[] options)
    {
        string[] checksums = [.. await Task.WhenAll(Train("off"), Train("on"))];
        Assert.Equal(checksums[0], checksums[1]);

        async Task<string> Train(string encryption)
        {
            await using var job = SkeinProcess.Start(
                [("SKEIN_ENCRYPTION", encryption), ("SKEIN_TIMEOUT_SECONDS", "60")],
                ["train", "digits", "--strategy", strategy, "--workers", "2", "--max-steps", "20", "--json", "--run-dir", Path.Combine(directory, encryption), .. options]);
            return (await TrainingResult.OfAsync(job)).Checksum()!;
        }
    }

    [Fact]
    public async Task Nodes_and_ranks_of_which_one_does_not_encrypt_are_refused_with_the_setting()
    {
        var port = SkeinProcess.FreePort();
        await using var first = Node(0, "on");
        await using var second = Node(1, "off");
        Assert.Equal(1, await second.ExitAsync());
        Assert.Contains("SKEIN_ENCRYPTION is off here and on there", Assert.Single(second.Errors), StringComparison.Ordinal);

        SkeinProcess Node(int rank, string encryption) => SkeinProcess.Start(
            [("SKEIN_ENCRYPTION", encryption), ("SKEIN_JOB_SECRET", SkeinProcess.Secret(4)), ("SKEIN_TIMEOUT_SECONDS", "30")],
            "launch", "-n", "1", "--nodes", "2", "--node-rank", $"{rank}", "--rendezvous", $"127.0.0.1:{port}", "--", "sleep", "600");
    }
}
