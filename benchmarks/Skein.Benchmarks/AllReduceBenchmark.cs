using System.CommandLine;
using System.Globalization;
using System.Text.Json;

namespace Skein.Benchmarks;

/// <summary>
/// All-reduce of Skein against other stacks, float32 sums between local processes. Rounds alternate all
/// configurations, so that noise falls on all alike; ratios are taken within a round, and their median is shown.
/// </summary>
/// <remarks>
/// The peers are the programs of a folder, which print CSV with the columns stack, procs, bytes, reps, median_us:
/// <c>allreduce_mpi.c</c> (compiled here with mpicc) and <c>allreduce_gloo.py</c>. Their rule is the same as
/// <c>skein bench</c>'s: a barrier, then every rank times its call, and the slowest rank's time counts. The peers' memory
/// allocator is told to keep freed memory, which makes them faster on large buffers.
/// </remarks>
internal static class AllReduceBenchmark
{
    private static readonly Argument<string> Peers = new("peers") { Description = "The folder of allreduce_mpi.c and allreduce_gloo.py" };
    private static readonly Option<int> Processes = new("--procs") { DefaultValueFactory = static _ => 2 };
    private static readonly Option<int> Rounds = new("--rounds") { DefaultValueFactory = static _ => 3 };
    private static readonly Option<string> Skein = new("--skein") { DefaultValueFactory = static _ => "./skein", Description = "The command to measure" };
    private static readonly Option<string> Python = new("--python") { DefaultValueFactory = static _ => "/usr/bin/python3", Description = "A Python with torch" };

    public static Command Command()
    {
        var command = new Command("allreduce", "All-reduce against Open MPI and gloo; a table of medians and ratios") { Peers, Processes, Rounds, Skein, Python };
        command.SetAction(Run);
        return command;
    }

    private static async Task Run(ParseResult parsed, CancellationToken cancellationToken)
    {
        string folder = parsed.GetValue(Peers)!;
        string n = parsed.GetValue(Processes).ToString(CultureInfo.InvariantCulture);
        string mpi = Path.Combine(Path.GetTempPath(), $"skein-benchmark-{Environment.ProcessId}");
        await ChildProcess.OutputAsync("mpicc", ["-O3", Path.Combine(folder, "allreduce_mpi.c"), "-o", mpi], cancellationToken);
        string[] mpirun = ["--allow-run-as-root", "--oversubscribe", "--mca", "oob_tcp_if_include", "lo", "-x", "MALLOC_MMAP_MAX_", "-x", "MALLOC_TRIM_THRESHOLD_", "-np", n];
        string[] overTcp = ["--mca", "pml", "ob1", "--mca", "btl", "tcp,self", "--mca", "btl_tcp_if_include", "lo"];
        string[] bench = ["bench", "allreduce", "-n", n, "--json"];
        string skein = parsed.GetValue(Skein)!;
        (string Name, Func<Task<Dictionary<long, double>>> Measure)[] stacks =
        [
            ("skein shm", () => SkeinAsync(skein, bench, cancellationToken)),
            ("skein shm, shared buffers", () => SkeinAsync(skein, [.. bench, "--buffers", "shared"], cancellationToken)),
            ("Open MPI shm", () => PeerAsync("mpirun", [.. mpirun, mpi, "mpi"], cancellationToken)),
            ("skein tcp", () => SkeinAsync(skein, [.. bench, "--transport", "tcp"], cancellationToken)),
            ("Open MPI tcp", () => PeerAsync("mpirun", [.. mpirun, .. overTcp, mpi, "mpi-tcp"], cancellationToken)),
            ("gloo", () => PeerAsync(parsed.GetValue(Python)!, [Path.Combine(folder, "allreduce_gloo.py"), "--procs", n], cancellationToken)),
        ];
        var seen = stacks.ToDictionary(stack => stack.Name, _ => new List<Dictionary<long, double>>());
        try
        {
            for (int round = 0; round < parsed.GetValue(Rounds); round++)
            {
                foreach ((string name, Func<Task<Dictionary<long, double>>> measure) in stacks)
                {
                    Console.Error.WriteLine($"round {round + 1}: {name}");
                    seen[name].Add(await measure());
                }
            }
        }
        finally
        {
            File.Delete(mpi);
        }

        Print(seen, n);
    }

    private static void Print(Dictionary<string, List<Dictionary<long, double>>> seen, string processes)
    {
        long[] sizes = [.. seen.Values.First()[0].Keys.Order()];
        Console.WriteLine($"All-reduce of float32 between {processes} processes, median microseconds:");
        Console.WriteLine();
        Console.WriteLine($"| stack | {string.Join(" | ", sizes.Select(Size))} |");
        Console.WriteLine($"| --- |{string.Concat(sizes.Select(_ => " --- |"))}");
        foreach ((string name, List<Dictionary<long, double>> rounds) in seen)
        {
            Console.WriteLine($"| {name} | {string.Join(" | ", sizes.Select(size => Statistics.Median(rounds.Select(round => round[size])).ToString("N1", CultureInfo.InvariantCulture)))} |");
        }

        Console.WriteLine();
        Console.WriteLine("How many times as fast, median of the rounds' ratios:");
        Console.WriteLine();
        Console.WriteLine($"| ratio | {string.Join(" | ", sizes.Select(Size))} |");
        Console.WriteLine($"| --- |{string.Concat(sizes.Select(_ => " --- |"))}");
        (string Ours, string Theirs)[] pairs =
        [
            ("skein shm", "Open MPI shm"), ("skein shm, shared buffers", "Open MPI shm"), ("skein tcp", "Open MPI tcp"), ("skein tcp", "gloo"), ("skein shm", "gloo"),
        ];
        foreach ((string ours, string theirs) in pairs)
        {
            Console.WriteLine(
                $"| {ours} over {theirs} | {string.Join(" | ", sizes.Select(size => Statistics.Median(seen[ours].Zip(seen[theirs], (own, peer) => peer[size] / own[size])).ToString("F2", CultureInfo.InvariantCulture)))} |");
        }
    }

    private static async Task<Dictionary<long, double>> SkeinAsync(string program, string[] arguments, CancellationToken cancellationToken)
    {
        string output = await ChildProcess.OutputAsync(program, arguments, cancellationToken);
        JsonElement report = JsonDocument.Parse(output.Trim().Split('\n')[^1]).RootElement;
        return report.GetProperty("results").EnumerateArray().ToDictionary(
            result => result.GetProperty("bytes").GetInt64(),
            result => result.GetProperty("correct").GetBoolean()
                ? result.GetProperty("median_seconds").GetDouble() * 1e6
                : throw new InvalidOperationException($"skein {string.Join(' ', arguments)} gave a wrong result"));
    }

    private static async Task<Dictionary<long, double>> PeerAsync(string program, string[] arguments, CancellationToken cancellationToken)
    {
        string output = await ChildProcess.OutputAsync(program, arguments, cancellationToken);
        string[][] rows = [.. output.Split('\n').Select(line => line.Split(',')).Where(row => row.Length > 5 && long.TryParse(row[2], out _))];
        return rows.ToDictionary(row => long.Parse(row[2], CultureInfo.InvariantCulture), row => double.Parse(row[4], CultureInfo.InvariantCulture));
    }

    private static string Size(long bytes) => bytes >= 1 << 20 ? $"{bytes >> 20} MiB" : $"{bytes >> 10} KiB";
}
