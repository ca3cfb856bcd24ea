using System.Diagnostics;
using Skein.Workloads.Fetching;

namespace Skein.Workloads.Tests.Fetching;

public sealed class TurnTests : IDisposable
{
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(60);

    private readonly string folder = Directory.CreateTempSubdirectory("skein-test-").FullName;

    public void Dispose() => Directory.Delete(folder, recursive: true);

    [Fact]
    public async Task Waiting_ends_with_an_error_when_the_other_does_nothing()
    {
        using Turn turn = await Turn.TakeAsync(folder, Patience, null, CancellationToken.None);
        var limit = TimeSpan.FromSeconds(0.3);
        var error = await Assert.ThrowsAsync<TimeoutException>(() => Turn.TakeAsync(folder, limit, null, CancellationToken.None));
        Assert.Contains(Path.Combine(folder, ".lock"), error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Waiting_goes_on_as_long_as_the_other_makes_progress()
    {
        Turn turn = await Turn.TakeAsync(folder, Patience, null, CancellationToken.None);
        var limit = TimeSpan.FromSeconds(1);
        Task<Turn> next = Turn.TakeAsync(folder, limit, null, CancellationToken.None);
        var clock = Stopwatch.StartNew();
        while (clock.Elapsed < 3 * limit)
        {
            await File.AppendAllTextAsync(Path.Combine(folder, "a.part"), "more");
            Assert.False(next.IsCompleted);
            await Task.WhenAny(next, Task.Delay(limit / 10));
        }

        turn.Dispose();
        (await next.WaitAsync(Patience)).Dispose();
    }

    [Fact]
    public async Task A_killed_holder_loses_its_turn()
    {
        var start = new ProcessStartInfo("sh", ["-c", "exec 9>.lock && flock 9 && echo held && exec sleep 1000"])
        {
            WorkingDirectory = folder,
            RedirectStandardOutput = true,
        };
        using Process holder = Process.Start(start)!;
        Assert.Equal("held", await holder.StandardOutput.ReadLineAsync());
        Task<Turn> next = Turn.TakeAsync(folder, Patience, null, CancellationToken.None);
        Assert.False(next.IsCompleted);
        holder.Kill();
        (await next.WaitAsync(Patience)).Dispose();
    }
}
