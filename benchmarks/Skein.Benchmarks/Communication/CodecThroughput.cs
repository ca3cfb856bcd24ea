using System.CommandLine;
using System.Diagnostics;
using System.Globalization;
using Skein.Collectives;
using Skein.Training.Compression;
using Skein.Training.Compression.AllReduce;

namespace Skein.Benchmarks.Communication;

/// <summary>How fast one core compresses and decompresses, beside copying the same memory.</summary>
internal static class CodecThroughput
{
    private static readonly string[] Codecs = ["fp16", "bf16", "int8", "qsgd:2", "qsgd:4", "qsgd:8", "topk:0.01", "topk:0.1", "randomk:0.01", "signsgd", "signsgd:majority"];
    private static readonly TimeSpan WarmUp = TimeSpan.FromSeconds(1);
    private static readonly Option<int> Mebibytes = new("--mib") { DefaultValueFactory = static _ => 64 };
    private static readonly Option<int> Rounds = new("--rounds") { DefaultValueFactory = static _ => 11 };

    public static Command Command()
    {
        var command = new Command("throughput", "Bytes of float32 per second and core") { Mebibytes, Rounds };
        command.SetAction(Run);
        return command;
    }

    private static async Task Run(ParseResult parsed, CancellationToken cancellationToken)
    {
        int rounds = parsed.GetValue(Rounds);
        float[] values = Gaussian(parsed.GetValue(Mebibytes) * (1 << 20) / sizeof(float));
        float[] copy = new float[values.Length], sum = new float[values.Length];
        Console.WriteLine("| codec | encode, GB/s | of memcpy | decode, GB/s | of memcpy | times smaller |");
        Console.WriteLine("| --- | --- | --- | --- | --- | --- |");
        var memcpy = new List<double>();
        foreach (string name in Codecs)
        {
            Codec codec = CompressionSpec.Parse(name).CreateCodec(seed: 1);
            var payload = new byte[codec.MaxEncodedLength(values.Length)];
            int length = 0;
            double[][] rates = Measure(rounds, values.Length, Copy, () => length = codec.Encode(values, payload), () => codec.Add(payload.AsSpan(0, length), sum));
            memcpy.AddRange(rates[0]);
            Console.WriteLine(string.Create(
                CultureInfo.InvariantCulture,
                $"| {name} | {Statistics.Median(rates[1]):f2} | {Ratio(rates, 1):f2} | {Statistics.Median(rates[2]):f2} | {Ratio(rates, 2):f2} | {values.Length * sizeof(float) / (double)length:f1} |"));
        }

        // A single rank: the work of both factors and of the product, with nobody to talk to.
        ProcessGroup[] alone = await ProcessGroup.CreateInProcessAsync(1);
        await using ProcessGroup group = alone[0];
        int side = (int)Math.Sqrt(values.Length);
        foreach (int rank in new[] { 2, 4 })
        {
            var powerSgd = new PowerSgdAllReduce(group, [new ParameterPlace(0, side, side)], rank, seed: 1);
            double[][] rates = Measure(rounds, side * side, Copy, () => powerSgd.Average(copy, sum));
            Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"| powersgd:{rank}, all steps | {Statistics.Median(rates[1]):f2} | {Ratio(rates, 1):f2} | | | {side / (2.0 * rank):f0} |"));
        }

        Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"memcpy of {parsed.GetValue(Mebibytes)} MiB: {Statistics.Median([.. memcpy]):f1} GB/s ({memcpy.Min():f1} to {memcpy.Max():f1})"));

        void Copy() => values.CopyTo(copy, 0);
    }

    private static double Ratio(double[][] rates, int action) => Statistics.Median([.. rates[action].Zip(rates[0], static (rate, copy) => rate / copy)]);

    /// <returns>For each action its rates in GB/s of float32. They take turns, so that a change of the machine's mood meets all of them.</returns>
    private static double[][] Measure(int rounds, int values, params Action[] actions)
    {
        // Methods are compiled anew once they were called 30 times, in the background.
        long begin = Stopwatch.GetTimestamp();
        for (int i = 0; i < 40 || Stopwatch.GetElapsedTime(begin) < WarmUp; i++)
        {
            foreach (Action action in actions) action();
        }

        double[][] rates = [.. actions.Select(_ => new double[rounds])];
        for (int i = 0; i < rounds; i++)
        {
            for (int j = 0; j < actions.Length; j++)
            {
                long start = Stopwatch.GetTimestamp();
                actions[j]();
                rates[j][i] = values * (double)sizeof(float) / 1e9 / Stopwatch.GetElapsedTime(start).TotalSeconds;
            }
        }

        return rates;
    }

    private static float[] Gaussian(int count)
    {
        var random = new Random(1);
        var values = new float[count];
        for (int i = 0; i < count; i++) values[i] = (float)(1e-3 * Math.Sqrt(-2 * Math.Log(1 - random.NextDouble())) * Math.Cos(2 * Math.PI * random.NextDouble()));
        return values;
    }
}
