using System.CommandLine;
using System.Diagnostics;
using System.Globalization;
using System.Text.Json;
using Skein.ParameterServer;

namespace Skein.Benchmarks.ParameterServers;

/// <summary>
/// How fast dense parameters move between a worker process and a server process on loopback, asynchronously and with
/// plain SGD, beside what the loopback gives without any server and what Open MPI exchanges. Rounds alternate all of
/// them; ratios are taken within a round.
/// </summary>
/// <remarks>
/// A push ends when the server has applied it and said so, so one worker's pushes do not overlap the server's work. Two
/// workers (two connections of this process) show what the server takes when they do.
/// </remarks>
internal static class ThroughputBenchmark
{
    private const string RawOneWay = "raw TCP, one way", RawBothWays = "raw TCP, each way at once", MpiTcp = "Open MPI tcp, each way at once", MpiShm = "Open MPI shm, each way at once";
    private const string Push = "push", Pull = "pull", PushPull = "push and pull, one after the other", TwoPush = "push, two workers", TwoPushPull = "push and pull, two workers, each way";

    private static readonly (string Ours, string Theirs)[] Ratios =
    [
        (Push, RawOneWay), (Pull, RawOneWay), (PushPull, RawOneWay), (TwoPush, RawOneWay), (TwoPushPull, RawBothWays), (TwoPushPull, MpiTcp),
    ];

    private static readonly Option<int> Megabytes = new("--megabytes") { DefaultValueFactory = static _ => 100, Description = "Size of the parameters in units of 1,000,000 bytes" };
    private static readonly Option<int> Rounds = new("--rounds") { DefaultValueFactory = static _ => 5 };
    private static readonly Option<int> Messages = new("--messages") { DefaultValueFactory = static _ => 20, Description = "Messages of each kind in a round" };
    private static readonly Option<bool> WithoutMpi = new("--without-mpi");

    public static Command Command()
    {
        var command = new Command("throughput", "Push and pull of dense parameters against raw loopback TCP and Open MPI") { Megabytes, Rounds, Messages, WithoutMpi, TrainRun.Skein };
        command.SetAction(Run);
        return command;
    }

    private static async Task Run(ParseResult parsed, CancellationToken cancellationToken)
    {
        int length = parsed.GetValue(Megabytes) * (1_000_000 / sizeof(float)), messages = parsed.GetValue(Messages);
        string skein = parsed.GetValue(TrainRun.Skein)!;
        await using ServerJob job = await ServerJob.StartAsync(skein, new JobSettings { Servers = 1, Workers = 2, Consistency = "async" }, cancellationToken);
        using Worker first = new(await job.OpenAsync(length, [], cancellationToken), length), second = new(await job.OpenAsync(length, [], cancellationToken), length);
        first.Client.Initialize(first.Values.Parameter);
        Together(3, first, second);

        var seen = new Dictionary<string, List<double>>();
        for (int round = 0; round < parsed.GetValue(Rounds); round++)
        {
            (double oneWay, double bothWays) = await LoopbackBaseline.MeasureAsync(length, messages, cancellationToken);
            Add(seen, RawOneWay, oneWay);
            Add(seen, RawBothWays, bothWays);
            (double push, double pull) = first.PushThenPull(messages);
            Add(seen, Push, push);
            Add(seen, Pull, pull);
            Add(seen, PushPull, 2 * first.Time(messages, static worker => worker.PushPull()));
            Add(seen, TwoPush, Together(messages, static worker => worker.Push(), first, second));
            Add(seen, TwoPushPull, Together(messages, first, second));
            if (parsed.GetValue(WithoutMpi)) continue;
            Add(seen, MpiTcp, await ExchangeAsync(skein, length, ["--mca", "pml", "ob1", "--mca", "btl", "tcp,self", "--mca", "btl_tcp_if_include", "lo"], cancellationToken));
            Add(seen, MpiShm, await ExchangeAsync(skein, length, [], cancellationToken));
        }

        Print(seen, length);
    }

    private static double Together(int messages, params Worker[] workers) => Together(messages, static worker => worker.PushPull(), workers);

    /// <summary>Bytes per second in one direction, of all workers together.</summary>
    private static double Together(int messages, Action<Worker> act, params Worker[] workers)
    {
        long start = Stopwatch.GetTimestamp();
        Thread[] threads = [.. workers.Select(worker => new Thread(() => worker.Time(messages, act)))];
        foreach (Thread thread in threads) thread.Start();
        foreach (Thread thread in threads) thread.Join();
        return (double)workers.Sum(static worker => worker.Values.Bytes.Length) * messages / Stopwatch.GetElapsedTime(start).TotalSeconds;
    }

    private static async Task<double> ExchangeAsync(string skein, int length, string[] transport, CancellationToken cancellationToken)
    {
        string output = await ChildProcess.OutputAsync(
            "mpirun",
            ["--allow-run-as-root", "--oversubscribe", "--mca", "oob_tcp_if_include", "lo", .. transport, "-np", "2", skein, "bench", "sendrecv", "--transport", "mpi", "--sizes", $"{length * sizeof(float)}B", "--json"],
            cancellationToken);
        JsonElement report = JsonDocument.Parse(output.Trim().Split('\n')[^1]).RootElement;
        return report.GetProperty("results")[0].GetProperty("algorithm_bandwidth").GetDouble();
    }

    private static void Add(Dictionary<string, List<double>> seen, string name, double bytesPerSecond)
    {
        Console.Error.WriteLine($"{name}: {bytesPerSecond / 1e9:f2} GB/s");
        if (!seen.TryGetValue(name, out List<double>? rates)) seen[name] = rates = [];
        rates.Add(bytesPerSecond);
    }

    private static void Print(Dictionary<string, List<double>> seen, int length)
    {
        Console.WriteLine($"Float32 parameters of {length * sizeof(float) / 1e6:N0} MB, one server process, asynchronous SGD:");
        Console.WriteLine();
        Console.WriteLine("| | GB/s, median | range |");
        Console.WriteLine("| --- | --- | --- |");
        foreach ((string name, List<double> rates) in seen) Console.WriteLine($"| {name} | {Statistics.Median(rates) / 1e9:f2} | {rates.Min() / 1e9:f2} to {rates.Max() / 1e9:f2} |");
        Console.WriteLine();
        Console.WriteLine("| ratio | median of the rounds | range |");
        Console.WriteLine("| --- | --- | --- |");
        foreach ((string ours, string theirs) in Ratios.Where(pair => seen.ContainsKey(pair.Theirs)))
        {
            double[] ratios = [.. seen[ours].Zip(seen[theirs], static (own, other) => own / other)];
            Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"| {ours} over {theirs} | {Statistics.Median(ratios):f2} | {ratios.Min():f2} to {ratios.Max():f2} |"));
        }
    }

    private sealed class Worker(ParameterServerClient client, int length) : IDisposable
    {
        private readonly PinnedFloats gradients = new(length, 1e-3f);
        private long clock;

        public ParameterServerClient Client => client;

        public PinnedFloats Values { get; } = new(length);

        public void Push() => client.Push(Next());

        public void PushPull() => client.PushPull(Next(), Values.Parameter);

        /// <summary>Bytes per second of each: every pull follows a push, so that there is something new to send.</summary>
        public (double Push, double Pull) PushThenPull(int messages)
        {
            TimeSpan pushing = default, pulling = default;
            for (int i = 0; i < messages; i++)
            {
                long start = Stopwatch.GetTimestamp();
                Push();
                long pushed = Stopwatch.GetTimestamp();
                long received = client.Pull(clock, Values.Parameter).BytesReceived;
                pulling += Stopwatch.GetElapsedTime(pushed);
                pushing += Stopwatch.GetElapsedTime(start, pushed);
                if (received != Values.Bytes.Length) throw new InvalidOperationException($"a pull brought {received} bytes, not {Values.Bytes.Length}");
            }

            double bytes = (double)messages * Values.Bytes.Length;
            return (bytes / pushing.TotalSeconds, bytes / pulling.TotalSeconds);
        }

        /// <summary>Bytes per second in one direction.</summary>
        public double Time(int messages, Action<Worker> act)
        {
            long start = Stopwatch.GetTimestamp();
            for (int i = 0; i < messages; i++) act(this);
            return (double)messages * Values.Bytes.Length / Stopwatch.GetElapsedTime(start).TotalSeconds;
        }

        public void Dispose()
        {
            gradients.Dispose();
            Values.Dispose();
        }

        private StepPush Next() => new() { Clock = clock++, LearningRate = 1e-3, Gradients = gradients.Parameter };
    }
}
