using System.Collections.Concurrent;
using System.Diagnostics;
using System.Net;
using System.Net.Sockets;
using System.Runtime.InteropServices;
using System.Security.Cryptography;

namespace Skein.EndToEnd;

/// <summary>A <c>skein</c> command that runs as a process of its own, with all that it says.</summary>
internal sealed class SkeinProcess : IAsyncDisposable
{
    public const int Interrupt = 2;
    public const int Kill = 9;
    public const int Terminate = 15;

    private const string Mark = "SKEIN_TEST_MARK";
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(120);

    private readonly Process process;
    private readonly string mark;
    private readonly ConcurrentQueue<string> output = new();
    private readonly ConcurrentQueue<string> errors = new();
    private readonly SemaphoreSlim arrived = new(0);

    private SkeinProcess(ProcessStartInfo start)
    {
        mark = Guid.NewGuid().ToString("N");
        start.RedirectStandardOutput = true;
        start.RedirectStandardError = true;
        start.Environment[Mark] = mark;
        process = Process.Start(start)!;
        process.OutputDataReceived += (_, line) => Add(output, line.Data);
        process.ErrorDataReceived += (_, line) => Add(errors, line.Data);
        process.BeginOutputReadLine();
        process.BeginErrorReadLine();
    }

    public static string Program { get; } = Path.Combine(AppContext.BaseDirectory, "Skein.Cli.dll");

    public int Id => process.Id;

    public string[] Output => [.. output];

    public string[] Errors => [.. errors];

    /// <summary>The processes that this one started, however many steps removed, as long as they keep their environment.</summary>
    public int[] Descendants => [.. Processes().Where(id => id != process.Id && Environ(id).Contains($"{Mark}={mark}"))];

    /// <summary>The worker process of that rank, which this one started.</summary>
    public int Worker(int rank) => Descendants.Single(id => Environ(id).Contains($"RANK={rank}"));

    public static SkeinProcess Start(params string[] arguments) => Start([], arguments);

    public static SkeinProcess Start((string Name, string? Value)[] environment, params string[] arguments) =>
        StartProgram("dotnet", environment, [Program, .. arguments]);

    public static SkeinProcess StartProgram(string program, (string Name, string? Value)[] environment, params string[] arguments) =>
        StartIn("", program, environment, arguments);

    /// <summary>Starts a program in that folder, or in this process's where it is empty. A variable without a value is not set.</summary>
    public static SkeinProcess StartIn(string folder, string program, (string Name, string? Value)[] environment, params string[] arguments)
    {
        var start = new ProcessStartInfo(program, arguments) { WorkingDirectory = folder };
        // The tests may themselves run under a launcher.
        foreach (var name in start.Environment.Keys.Where(name => name.StartsWith("SKEIN_", StringComparison.Ordinal)).ToList())
        {
            if (name is not ("SKEIN_DATA_DIR" or Mark)) start.Environment.Remove(name);
        }

        // Much of a short run is compilation, and none of it is long enough to gain from a second one.
        start.Environment["DOTNET_TieredPGO"] = "0";
        start.Environment["DOTNET_TC_CallCountThreshold"] = "0x400";
        foreach (var (name, value) in environment) start.Environment[name] = value;
        return new SkeinProcess(start);
    }

    /// <summary>Runs to the end.</summary>
    public static async Task<(int ExitCode, string[] Output, string[] Errors)> RunAsync(params string[] arguments)
    {
        await using var process = Start(arguments);
        return (await process.ExitAsync(), process.Output, process.Errors);
    }

    /// <summary>A job's secret that is the same in every run.</summary>
    public static string Secret(int number) => Convert.ToHexStringLower(SHA256.HashData(BitConverter.GetBytes(number)));

    /// <summary>A port that was free a moment ago.</summary>
    public static int FreePort()
    {
        using var listener = new TcpListener(IPAddress.Loopback, 0);
        listener.Start();
        return ((IPEndPoint)listener.LocalEndpoint).Port;
    }

    public static string[] Environ(int id) => Read($"/proc/{id}/environ");

    /// <summary>A variable of a process's environment; null where it is not set.</summary>
    public static string? Variable(int id, string name) =>
        Environ(id).FirstOrDefault(line => line.StartsWith($"{name}=", StringComparison.Ordinal))?[(name.Length + 1)..];

    public static string[] CommandLine(int id) => Read($"/proc/{id}/cmdline");

    public static IEnumerable<int> Processes() =>
        Directory.EnumerateDirectories("/proc").Select(Path.GetFileName).Where(name => int.TryParse(name, out _)).Select(name => int.Parse(name!));

    public static void Signal(int id, int signal) => Assert.Equal(0, SendSignal(id, signal));

    public void Signal(int signal) => Signal(process.Id, signal);

    /// <summary>Waits until <paramref name="count"/> lines of either stream satisfy the condition.</summary>
    public async Task WaitForLinesAsync(int count, Func<string, bool> condition)
    {
        using var limit = new CancellationTokenSource(Patience);
        while (Output.Concat(Errors).Count(condition) < count)
        {
            try
            {
                await arrived.WaitAsync(limit.Token);
            }
            catch (OperationCanceledException)
            {
                Assert.Fail($"the lines did not come; so far: {string.Join('\n', Output.Concat(Errors))}");
            }
        }
    }

    public Task<int> ExitAsync() => ExitAsync(Patience);

    /// <summary>The exit code, with all output read; the test fails when it takes longer than <paramref name="limit"/>.</summary>
    public async Task<int> ExitAsync(TimeSpan limit)
    {
        using var cancellation = new CancellationTokenSource(limit);
        try
        {
            await process.WaitForExitAsync(cancellation.Token);
        }
        catch (OperationCanceledException)
        {
            Assert.Fail($"still running after {limit}; so far: {string.Join('\n', Output.Concat(Errors))}");
        }

        return process.ExitCode;
    }

    /// <summary>Waits until nothing that this process started runs any more.</summary>
    public async Task NothingLeftAsync(TimeSpan limit)
    {
        for (var clock = Stopwatch.StartNew(); Descendants.Length > 0; await Task.Delay(20))
        {
            Assert.True(clock.Elapsed < limit, $"left behind: {string.Join("; ", Descendants.Select(id => string.Join(' ', CommandLine(id))))}");
        }
    }

    public async ValueTask DisposeAsync()
    {
        if (!process.HasExited) process.Kill(entireProcessTree: true);
        await process.WaitForExitAsync();
        foreach (var id in Descendants) _ = SendSignal(id, Kill);
        process.Dispose();
    }

    private void Add(ConcurrentQueue<string> lines, string? line)
    {
        if (line is null) return;
        lines.Enqueue(line);
        arrived.Release();
    }

    private static string[] Read(string path)
    {
        try
        {
            return File.ReadAllText(path).Split('\0', StringSplitOptions.RemoveEmptyEntries);
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            return [];
        }
    }

    [DllImport("libc", EntryPoint = "kill", SetLastError = true)]
    private static extern int SendSignal(int pid, int signal);
}
