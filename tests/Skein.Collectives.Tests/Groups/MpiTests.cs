using System.Diagnostics;

namespace Skein.Collectives.Tests.Groups;

/// <summary>Jobs that mpirun starts, with nothing else arranged.</summary>
public sealed class MpiTests
{
    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(4)]
    public async Task Ranks_meet_and_communicate_through_mpi(int worldSize)
    {
        (int exitCode, string output) = await MpirunAsync(worldSize, "check", null);
        Assert.True(exitCode == 0, output);
        string transport = worldSize == 1 ? "none" : "mpi";
        Assert.Equal(worldSize, output.Split($"checked {transport}").Length - 1);
    }

    [Theory]
    [InlineData("tcp")]
    [InlineData("shm")]
    public async Task Ranks_meet_through_mpi_without_a_secret_whatever_carries_their_bytes(string transport)
    {
        (int exitCode, string output) = await MpirunAsync(2, "check", transport);
        Assert.True(exitCode == 0, output);
        Assert.Equal(2, output.Split($"checked {transport}").Length - 1);
    }

    [Fact]
    public async Task Different_calls_end_the_job()
    {
        (int exitCode, string output) = await MpirunAsync(3, "call all-reduce broadcast", null);
        Assert.NotEqual(0, exitCode);
        Assert.Contains("CollectiveMismatchException", output, StringComparison.Ordinal);
        Assert.Contains("AllReduce", output, StringComparison.Ordinal);
        Assert.Contains("Broadcast", output, StringComparison.Ordinal);
    }

    private static async Task<(int ExitCode, string Output)> MpirunAsync(int worldSize, string scenario, string? transport)
    {
        var start = new ProcessStartInfo("mpirun") { RedirectStandardOutput = true, RedirectStandardError = true };
        string[] words = ["--allow-run-as-root", "--oversubscribe", "-n", $"{worldSize}", "dotnet", Path.Combine(AppContext.BaseDirectory, "Skein.TestWorker.dll"), .. scenario.Split(' ')];
        foreach (string word in words) start.ArgumentList.Add(word);
        start.Environment["SKEIN_TIMEOUT_SECONDS"] = "60";
        if (transport is not null) start.Environment["SKEIN_TRANSPORT"] = transport;
        Process? mpirun = null;
        try
        {
            mpirun = Process.Start(start);
        }
        catch (System.ComponentModel.Win32Exception)
        {
            Assert.Skip("mpirun is not installed (Debian: apt-get install openmpi-bin)");
        }

        using (mpirun)
        {
            Task<string> output = mpirun!.StandardOutput.ReadToEndAsync(), errors = mpirun.StandardError.ReadToEndAsync();
            using var limit = new CancellationTokenSource(TimeSpan.FromSeconds(90));
            try
            {
                await mpirun.WaitForExitAsync(limit.Token);
            }
            catch (OperationCanceledException)
            {
                mpirun.Kill(entireProcessTree: true);
                throw new TimeoutException($"mpirun was still running after 90 s, having written: {await output} {await errors}");
            }

            return (mpirun.ExitCode, await output + await errors);
        }
    }
}
