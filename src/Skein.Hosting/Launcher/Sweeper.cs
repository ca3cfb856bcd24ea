using System.Diagnostics;

namespace Skein.Hosting;

/// <summary>
/// A small process that outlives the launcher, whatever ends it: when the launcher closes the pipe between them or
/// dies, it kills every process that still carries the launch's mark in its environment. Beyond its reach is only a
/// process that cleared its own environment and left its group.
/// </summary>
internal sealed class Sweeper : IAsyncDisposable
{
    /// <summary>The variable by which the processes of one launcher are recognised.</summary>
    public const string Mark = "SKEIN_LAUNCH_ID";

    private static readonly TimeSpan Limit = TimeSpan.FromSeconds(2);

    // Repeated, because what is being killed may have started something since it was listed.
    private const string Script = """
        while read -r _; do :; done
        exec >/dev/null 2>&1
        for _ in 1 2 3 4 5 6 7 8 9 10; do
            files=$(grep -ls "SKEIN_LAUNCH_ID=$1" /proc/[0-9]*/environ)
            [ -n "$files" ] || break
            for file in $files; do
                file=${file#/proc/}
                kill -KILL "${file%/environ}"
            done
        done
        """;

    private readonly Process process;

    private Sweeper(Process process) => this.process = process;

    /// <summary>Starts watching over the processes that carry <paramref name="launchId"/>.</summary>
    public static Sweeper Start(string launchId)
    {
        // A session of its own keeps the terminal's Ctrl-C, and a signal to the launcher's group, away from it.
        var start = new ProcessStartInfo(ProgramPath.Find("setsid"), ["/bin/sh", "-c", Script, "skein-sweeper", launchId])
        {
            RedirectStandardInput = true,
            UseShellExecute = false,
        };
        start.Environment.Remove(Mark);
        return new Sweeper(Process.Start(start) ?? throw new LaunchException("cannot start /bin/sh, which ends the job's processes"));
    }

    /// <summary>Sweeps now, and waits for the end of it.</summary>
    public async ValueTask DisposeAsync()
    {
        process.StandardInput.Close();
        using var limit = new CancellationTokenSource(Limit);
        try
        {
            await process.WaitForExitAsync(limit.Token).ConfigureAwait(false);
        }
        catch (OperationCanceledException)
        {
            // It goes on by itself; the launcher need not stay for it.
        }

        process.Dispose();
    }
}
