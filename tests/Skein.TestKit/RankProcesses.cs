using System.Diagnostics;
using System.Globalization;
using System.Net;
using System.Runtime.InteropServices;
using System.Text;
using Skein.Collectives;
using Skein.Collectives.Rendezvous;

namespace Skein.TestKit;

/// <summary>How a rank's process ended.</summary>
/// <param name="ExitCode">128 + the signal's number if a signal ended it.</param>
/// <param name="Output">What it wrote, errors included.</param>
/// <param name="Ended">When.</param>
public sealed record RankOutcome(int ExitCode, string Output, DateTime Ended);

/// <summary>
/// The ranks of a job as real processes of Skein.TestWorker, each playing a scenario, with the environment of a
/// launcher. Whatever is left of them is killed on disposal.
/// </summary>
public sealed class RankProcesses : IAsyncDisposable
{
    private readonly TcpStoreServer server;
    private readonly Process[] processes;
    private readonly StringBuilder[] outputs;

    private RankProcesses(TcpStoreServer server, Process[] processes)
    {
        this.server = server;
        this.processes = processes;
        outputs = [.. processes.Select(_ => new StringBuilder())];
        for (int rank = 0; rank < processes.Length; rank++)
        {
            StringBuilder output = outputs[rank];
            processes[rank].OutputDataReceived += (_, line) => Append(output, line.Data);
            processes[rank].ErrorDataReceived += (_, line) => Append(output, line.Data);
            processes[rank].BeginOutputReadLine();
            processes[rank].BeginErrorReadLine();
        }
    }

    /// <summary>Starts the ranks.</summary>
    /// <param name="worldSize">The number of ranks.</param>
    /// <param name="transport">What connects them.</param>
    /// <param name="timeout">The job's timeout.</param>
    /// <param name="scenario">The scenario's name and arguments, as Skein.TestWorker lists them.</param>
    public static RankProcesses Start(int worldSize, TransportKind transport, TimeSpan timeout, params string[] scenario)
    {
        JobSecret secret = JobSecret.Generate();
        TcpStoreServer server = TcpStoreServer.Start(new IPEndPoint(IPAddress.Loopback, 0), secret);
        string jobId = $"test-{Guid.NewGuid():N}";
        return new RankProcesses(server, [.. Enumerable.Range(0, worldSize).Select(rank =>
        {
            var start = new ProcessStartInfo("dotnet") { RedirectStandardOutput = true, RedirectStandardError = true };
            start.ArgumentList.Add(Path.Combine(AppContext.BaseDirectory, "Skein.TestWorker.dll"));
            foreach (string word in scenario) start.ArgumentList.Add(word);
            Set("RANK", rank);
            Set("LOCAL_RANK", rank);
            Set("WORLD_SIZE", worldSize);
            Set("LOCAL_WORLD_SIZE", worldSize);
            Set("MASTER_PORT", server.Endpoint.Port);
            Set("SKEIN_LAUNCHER_STORE", 1);
            Set("SKEIN_TIMEOUT_SECONDS", timeout.TotalSeconds);
            start.Environment["MASTER_ADDR"] = server.Endpoint.Address.ToString();
            start.Environment["SKEIN_TRANSPORT"] = OptionNames.Of(transport);
            start.Environment["SKEIN_JOB_ID"] = jobId;
            start.Environment["SKEIN_JOB_SECRET"] = secret.ToHex();
            return Process.Start(start)!;

            void Set(string name, IConvertible value) => start.Environment[name] = value.ToString(CultureInfo.InvariantCulture);
        })]);
    }

    /// <summary>Waits until every rank has written a line that contains <paramref name="text"/>.</summary>
    /// <exception cref="TimeoutException">A rank did not; shows its output.</exception>
    public void WaitForAll(string text, TimeSpan limit)
    {
        DateTime end = DateTime.UtcNow + limit;
        for (int rank = 0; rank < outputs.Length; rank++)
        {
            StringBuilder output = outputs[rank];
            lock (output)
            {
                while (!output.ToString().Contains(text, StringComparison.Ordinal))
                {
                    TimeSpan left = end - DateTime.UtcNow;
                    if (left <= TimeSpan.Zero || !Monitor.Wait(output, left))
                    {
                        throw new TimeoutException($"rank {rank} did not write '{text}' within {limit.TotalSeconds} s, but: {output}");
                    }
                }
            }
        }
    }

    /// <summary>Sends a signal to a rank: 9 kills it, 19 stops it, 18 lets it go on.</summary>
    public void Signal(int rank, int signal) => _ = kill(processes[rank].Id, signal);

    /// <summary>Waits until every rank has ended.</summary>
    /// <exception cref="TimeoutException">A rank did not; shows its output.</exception>
    public async Task<RankOutcome[]> WaitForExitAsync(TimeSpan limit, params int[] except)
    {
        using var cancellation = new CancellationTokenSource(limit);
        return await Task.WhenAll(processes.Select(async (process, rank) =>
        {
            if (except.Contains(rank)) return new RankOutcome(-1, "", DateTime.MaxValue);
            try
            {
                await process.WaitForExitAsync(cancellation.Token);
            }
            catch (OperationCanceledException)
            {
                throw new TimeoutException($"rank {rank} was still running after {limit.TotalSeconds} s, having written: {Text(rank)}");
            }

            return new RankOutcome(process.ExitCode, Text(rank), process.ExitTime.ToUniversalTime());
        }));
    }

    /// <inheritdoc/>
    public async ValueTask DisposeAsync()
    {
        foreach (Process process in processes)
        {
            process.Kill();
            await process.WaitForExitAsync();
            process.Dispose();
        }

        await server.DisposeAsync();
    }

    private string Text(int rank)
    {
        lock (outputs[rank]) return outputs[rank].ToString();
    }

    private static void Append(StringBuilder output, string? line)
    {
        lock (output)
        {
            if (line is not null) output.AppendLine(line);
            Monitor.PulseAll(output);
        }
    }

    [DllImport("libc")]
    private static extern int kill(int process, int signal);
}
