namespace Skein.EndToEnd;

/// <summary>The sample of a service, which trains until it is done or stopped.</summary>
public sealed class HostedServiceTests
{
    [Fact]
    public async Task A_service_ends_with_the_same_numbers_on_one_rank_and_on_two_and_stops_when_it_is_told_to()
    {
        await using var alone = Start();
        double[] numbers = await TrainAsync(alone, ranks: 1);
        alone.Signal(SkeinProcess.Terminate);
        Assert.Equal(0, await alone.ExitAsync());

        await using var job = SkeinProcess.Start("launch", "-n", "2", "--", "dotnet", SampleTests.PathOf("HostedService"));
        double[] others = await TrainAsync(job, ranks: 2);
        foreach (int rank in new[] { 0, 1 }) SkeinProcess.Signal(job.Worker(rank), SkeinProcess.Terminate);
        Assert.Equal(0, await job.ExitAsync());

        Assert.Equal(150, numbers[0]);
        Assert.InRange(numbers[2], 0.85, 1);
        Assert.Equal(numbers[0], others[0]);
        Assert.Equal(numbers[1], others[1], 0.00011);
        Assert.Equal(numbers[2], others[2], 0.0011);
    }

    [Fact]
    public async Task A_service_that_is_told_to_stop_while_it_trains_ends_well_after_a_step()
    {
        await using var service = Start("--epochs", "1000000");
        await service.WaitForLinesAsync(1, static line => line.Contains("training on 1 ranks", StringComparison.Ordinal));
        service.Signal(SkeinProcess.Terminate);
        Assert.Equal(0, await service.ExitAsync());
        string stopped = Assert.Single(service.Output, static line => line.Contains("stopped after ", StringComparison.Ordinal));
        Assert.InRange(SampleTests.Numbers(After(stopped, "stopped after "))[0], 1, 1_000_000);
        Assert.Empty(service.Errors);
    }

    private static SkeinProcess Start(params string[] arguments) =>
        SkeinProcess.StartProgram("dotnet", [], [SampleTests.PathOf("HostedService"), .. arguments]);

    /// <summary>Waits until all ranks have trained; steps, loss and accuracy.</summary>
    private static async Task<double[]> TrainAsync(SkeinProcess process, int ranks)
    {
        const string trained = "] trained ";
        await process.WaitForLinesAsync(ranks, static line => line.Contains(trained, StringComparison.Ordinal));
        IEnumerable<string> lines = process.Output.Where(static line => line.Contains(trained, StringComparison.Ordinal));
        double[][] said = [.. lines.Select(static line => SampleTests.Numbers(After(line, trained)))];
        Assert.All(said, numbers => Assert.Equal(said[0], numbers));
        return said[0];
    }

    private static string After(string line, string text) => line[(line.IndexOf(text, StringComparison.Ordinal) + text.Length)..];
}
