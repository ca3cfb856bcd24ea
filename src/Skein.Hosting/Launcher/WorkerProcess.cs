using System.ComponentModel;
using System.Diagnostics;
using System.Runtime.InteropServices;

namespace Skein.Hosting;

/// <summary>One rank's or companion's process, the leader of a session of its own so that a signal reaches all that it starts.</summary>
internal sealed class WorkerProcess : IDisposable
{
    private readonly Process process;
    private readonly WorkerOutput output;
    private readonly Task carried;

    private WorkerProcess(int? rank, string name, Process process, WorkerOutput output)
    {
        Rank = rank;
        Name = name;
        this.process = process;
        this.output = output;
        carried = output.CarryAsync(process.StandardOutput.BaseStream, process.StandardError.BaseStream);
        Exited = WaitAsync();
    }

    /// <summary>Null for a companion.</summary>
    public int? Rank { get; }

    /// <summary>For messages: <c>rank 3</c>, or what the companion is called.</summary>
    public string Name { get; }

    /// <summary>The process's number.</summary>
    public int Id => process.Id;

    /// <summary>The exit code; 128 + n when signal n ended it.</summary>
    public Task<int> Exited { get; }

    public IReadOnlyList<string> LastLines => output.LastLines;

    /// <summary>Starts a rank, for the first time or again: its log is then continued.</summary>
    /// <exception cref="LaunchException">The program cannot be started.</exception>
    public static WorkerProcess Start(int rank, bool again, LaunchOptions options, Dictionary<string, string> environment) =>
        Start(
            rank, $"rank {rank}", options.Program, options.Arguments, environment,
            new WorkerOutput($"{rank}", $"rank-{rank}.log", rank == 0, options, again));

    /// <exception cref="LaunchException">The program cannot be started.</exception>
    public static WorkerProcess Start(CompanionProcess companion, LaunchOptions options, Dictionary<string, string> environment) =>
        Start(
            null, companion.Name, companion.Program ?? options.Program, companion.Arguments, environment,
            new WorkerOutput(companion.Name, $"{companion.Name}.log", false, options));

    private static WorkerProcess Start(
        int? rank, string name, string program, IReadOnlyList<string> arguments, Dictionary<string, string> environment,
        WorkerOutput output)
    {
        // setsid gives the worker a session and process group of its own: Ctrl-C on the terminal then reaches only the
        // launcher, and a signal to the group reaches whatever the worker starts.
        var start = new ProcessStartInfo(ProgramPath.Find("setsid"))
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            UseShellExecute = false,
        };
        start.ArgumentList.Add(ProgramPath.Find(program));
        foreach (var argument in arguments) start.ArgumentList.Add(argument);
        foreach (var (variable, value) in environment) start.Environment[variable] = value;

        try
        {
            var process = Process.Start(start)!;
            process.StandardInput.Close();
            return new WorkerProcess(rank, name, process, output);
        }
        catch (Win32Exception error)
        {
            output.Dispose();
            throw new LaunchException($"{name}: cannot start {program}: {error.Message}", error);
        }
    }

    /// <summary>Sends <paramref name="signal"/> to the worker and to all that it started and that did not leave its process group.</summary>
    public void Signal(int signal)
    {
        // The group of a leader that is gone may still have members; when it has none, there is nobody to tell.
        _ = Kill(-process.Id, signal);
    }

    /// <summary>
    /// Sends <paramref name="signal"/> to those of the worker's processes that handle it: it would end a shell around them,
    /// and so the worker.
    /// </summary>
    public void SignalHandlers(int signal)
    {
        var session = $"{process.Id}";
        foreach (var id in Directory.EnumerateDirectories("/proc").Select(Path.GetFileName).Where(name => int.TryParse(name, out _)))
        {
            if (SessionOf(id!) == session && Signals.Has(id!, "SigCgt", signal)) _ = Kill(int.Parse(id!), signal);
        }
    }

    /// <summary>Waits until all output is carried on, or until <paramref name="limit"/> has passed.</summary>
    public Task DrainAsync(TimeSpan limit) => Task.WhenAny(carried, Task.Delay(limit));

    public void Dispose()
    {
        output.Dispose();
        // The process leaves streams that were asked for to who asked.
        process.StandardOutput.Dispose();
        process.StandardError.Dispose();
        process.Dispose();
    }

    private async Task<int> WaitAsync()
    {
        await process.WaitForExitAsync().ConfigureAwait(false);
        // What a finished worker left running belongs to the job, and would keep its output open.
        Signal(Signals.Kill);
        return process.ExitCode;
    }

    private static string? SessionOf(string id)
    {
        try
        {
            // The program's name, in parentheses, may contain anything; state, parent, group and session follow it.
            var line = File.ReadAllText($"/proc/{id}/stat");
            return line[(line.LastIndexOf(')') + 2)..].Split(' ')[3];
        }
        catch (IOException)
        {
            return null;
        }
    }

    [DllImport("libc", EntryPoint = "kill", SetLastError = true)]
    private static extern int Kill(int pid, int signal);
}
