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
        double memcpy = Measure(rounds, values.Length, () => values.CopyTo(copy, 0));
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"memcpy of {parsed.GetValue(Mebibytes)} MiB: {memcpy:f1} GB/s"));
        Console.WriteLine("| codec | encode, GB/s | of memcpy | decode, GB/s | of memcpy | times smaller |");
        Console.WriteLine("| --- | --- | --- | --- | --- | --- |");
        foreach (string name in Codecs)
        {
            Codec codec = CompressionSpec.Parse(name).CreateCodec(seed: 1);
            var payload = new byte[codec.MaxEncodedLength(values.Length)];
            int length = 0;
            double encode = Measure(rounds, values.Length, () => length = codec.Encode(values, payload));
            double decode = Measure(rounds, values.Length, () => codec.Add(payload.AsSpan(0, length), sum));
            Print(name, encode, decode, memcpy, values.Length * sizeof(float) / (double)length);
        }

        // A single rank: the work of both factors and of the product, with nobody to talk to.
        ProcessGroup[] alone = await ProcessGroup.CreateInProcessAsync(1);
        await using ProcessGroup group = alone[0];
        int side = (int)Math.Sqrt(values.Length);
        foreach (int rank in new[] { 2, 4 })
        {
            var powerSgd = new PowerSgdAllReduce(group, [new ParameterPlace(0, side, side)], rank, seed: 1);
            double both = Measure(rounds, side * side, () =>
            {
                values.CopyTo(copy, 0);
                powerSgd.Average(copy, sum);
            });
            Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"| powersgd:{rank}, all steps | {both:f2} | {both / memcpy:f2} | | | {side / (2.0 * rank):f0} |"));
        }
    }

    private static void Print(string name, double encode, double decode, double memcpy, double ratio) => Console.WriteLine(string.Create(
        CultureInfo.InvariantCulture, $"| {name} | {encode:f2} | {encode / memcpy:f2} | {decode:f2} | {decode / memcpy:f2} | {ratio:f1} |"));

    /// <returns>The median in GB/s of float32.</returns>
    private static double Measure(int rounds, int values, Action action)
    {
        for (int i = 0; i < 3; i++) action();
        var seconds = new double[rounds];
        for (int i = 0; i < rounds; i++)
        {
            long start = Stopwatch.GetTimestamp();
            action();
            seconds[i] = Stopwatch.GetElapsedTime(start).TotalSeconds;
        }

        return values * (double)sizeof(float) / 1e9 / Statistics.Median(seconds);
    }

    private static float[] Gaussian(int count)
    {
        var random = new Random(1);
        var values = new float[count];
        for (int i = 0; i < count; i++) values[i] = (float)(1e-3 * Math.Sqrt(-2 * Math.Log(1 - random.NextDouble())) * Math.Cos(2 * Math.PI * random.NextDouble()));
        return values;
    }
}
