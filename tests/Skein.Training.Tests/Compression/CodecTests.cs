using Skein.Training.Compression;

namespace Skein.Training.Tests.Compression;

public class CodecTests
{
    public static TheoryData<string> All =>
        ["fp16", "bf16", "int8", "qsgd:2", "qsgd:3", "qsgd:4", "qsgd:5", "qsgd:8", "topk:0.01", "topk:0.3", "topk:1", "randomk:0.01", "randomk:1", "signsgd", "signsgd:majority"];

    private static readonly int[] Lengths = [0, 1, 2, 3, 15, 16, 17, 63, 64, 65, 511, 512, 513, 1023, 1025, 5000, 70_001];

    private static Codec Make(string name, long seed = 5) => CompressionSpec.Parse(name).CreateCodec(seed);

    private static (float[] Decoded, int Bytes) RoundTrip(Codec codec, float[] values)
    {
        var payload = new byte[codec.MaxEncodedLength(values.Length)];
        int length = codec.Encode(values, payload);
        var decoded = new float[values.Length];
        Array.Fill(decoded, 99);
        codec.Decode(payload.AsSpan(0, length), decoded);
        return (decoded, length);
    }

    [Theory]
    [MemberData(nameof(All))]
    public void Any_length_comes_back_within_the_codecs_error(string name)
    {
        foreach (int length in Lengths)
        {
            Codec codec = Make(name);
            float[] values = Gradient.Of(length, 3);
            (float[] decoded, int bytes) = RoundTrip(codec, values);
            Assert.InRange(bytes, 0, codec.MaxEncodedLength(length));
            if (codec.HasFixedLength) Assert.Equal(codec.MaxEncodedLength(length), bytes);
            for (int i = 0; i < length; i++)
            {
                float largest = LargestNear(values, i, name.StartsWith("qsgd", StringComparison.Ordinal) || name == "int8" ? 512 : 1024);
                double allowed = name switch
                {
                    "fp16" => (Math.Abs(values[i]) / 2048) + (LargestNear(values, i, 2048) * 2e-12),
                    "bf16" => Math.Abs(values[i]) / 256,
                    "int8" => largest / 127 * 0.5001,
                    "qsgd:2" => largest * 1.0001,
                    "qsgd:3" => largest / 3 * 1.0001,
                    "qsgd:4" => largest / 7 * 1.0001,
                    "qsgd:5" => largest / 15 * 1.0001,
                    "qsgd:8" => largest / 127 * 1.0001,
                    "topk:1" => (values.Max(Math.Abs) * 1e-7) + (Math.Abs(values[i]) / 2048),
                    "randomk:1" => 0,
                    _ => double.PositiveInfinity,
                };
                Assert.True(Math.Abs(decoded[i] - values[i]) <= allowed, $"{name}, length {length}, element {i}: {decoded[i]} for {values[i]}, allowed {allowed}");
            }
        }
    }

    [Theory]
    [InlineData("fp16", 1.99, 2)]
    [InlineData("bf16", 2, 2)]
    [InlineData("int8", 3.9, 4)]
    [InlineData("qsgd:4", 7.5, 20)]
    [InlineData("qsgd:2", 14, 30)]
    [InlineData("topk:0.01", 120, 140)]
    [InlineData("randomk:0.01", 99, 101)]
    [InlineData("signsgd", 31, 32)]
    [InlineData("signsgd:majority", 32, 32)]
    public void Payloads_are_as_many_times_smaller(string name, double atLeast, double atMost)
    {
        (_, int bytes) = RoundTrip(Make(name), Gradient.Of(1 << 20, 1));
        Assert.InRange(4.0 * (1 << 20) / bytes, atLeast, atMost);
    }

    [Theory]
    [MemberData(nameof(All))]
    public void Zeros_stay_zeros_or_tied_signs(string name)
    {
        (float[] decoded, _) = RoundTrip(Make(name), new float[2000]);
        Assert.All(decoded, value => Assert.Equal(name == "signsgd:majority" ? 1 : 0, MathF.Abs(value)));
        if (name == "signsgd:majority") Assert.Equal(0, decoded.Sum());
    }

    [Theory]
    [InlineData("qsgd:2")]
    [InlineData("qsgd:4")]
    [InlineData("qsgd:8")]
    public void Random_rounding_is_unbiased(string name)
    {
        // A draw is one of two neighbouring levels, so the mean's standard error is known; it lies within 6 of them, and a few
        // rare draws, with probability above 1 - 1e-6 for each of the 600 elements. The seed is fixed.
        const int draws = 4000;
        float[] values = Gradient.Of(600, 9);
        Codec codec = Make(name);
        Assert.True(codec.IsUnbiased);
        int levels = (1 << (name[^1] - '0' - 1)) - 1;
        var sum = new double[values.Length];
        for (int draw = 0; draw < draws; draw++)
        {
            (float[] decoded, _) = RoundTrip(codec, values);
            for (int i = 0; i < values.Length; i++) sum[i] += decoded[i];
        }

        for (int i = 0; i < values.Length; i++)
        {
            double step = LargestNear(values, i, 512) / levels;
            double above = Math.Abs(values[i] / step) % 1;
            double allowed = step * ((6 * Math.Sqrt(above * (1 - above) / draws)) + (10.0 / draws));
            Assert.True(Math.Abs((sum[i] / draws) - values[i]) <= allowed, $"element {i}: mean {sum[i] / draws} of {values[i]}, allowed {allowed}");
        }
    }

    [Fact]
    public void Random_places_are_equally_likely_and_the_same_for_the_same_seed()
    {
        float[] ones = new float[1000];
        Array.Fill(ones, 1);
        Codec codec = Make("randomk:0.1");
        Codec other = Make("randomk:0.1");
        var hits = new int[ones.Length];
        const int draws = 3000;
        for (int draw = 0; draw < draws; draw++)
        {
            (float[] decoded, _) = RoundTrip(codec, ones);
            Assert.Equal(decoded, RoundTrip(other, ones).Decoded);
            Assert.Equal(100, decoded.Sum());
            for (int i = 0; i < hits.Length; i++) hits[i] += (int)decoded[i];
        }

        // Binomial with p = 1/10: 300 expected, standard deviation 16.4.
        Assert.All(hits, count => Assert.InRange(count, 300 - 82, 300 + 82));
    }

    [Theory]
    [InlineData(0.01)]
    [InlineData(0.1)]
    [InlineData(0.7)]
    public void Top_k_sends_the_largest(double ratio)
    {
        foreach (int length in Lengths.Where(static length => length > 0))
        {
            float[] values = Gradient.Of(length, 4);
            (float[] decoded, _) = RoundTrip(Make($"topk:{ratio}"), values);
            int wanted = Math.Min(Math.Clamp((int)Math.Round(length * ratio), 1, length), values.Count(static value => value != 0));
            float[] sorted = [.. values.Select(Math.Abs).OrderDescending()];
            float smallest = wanted > 0 ? sorted[wanted - 1] : 0;
            for (int i = 0; i < length; i++)
            {
                if (MathF.Abs(values[i]) < smallest) Assert.Equal(0, decoded[i]);
                // Far below the largest, binary16 itself loses digits, at the end all.
                if (MathF.Abs(values[i]) > smallest) Assert.Equal(values[i], decoded[i], (MathF.Abs(values[i]) / 2000) + (sorted[0] * 6e-8f));
            }
        }
    }

    [Fact]
    public void Of_equal_values_top_k_sends_as_many_as_asked_for()
    {
        float[] equal = new float[50_000];
        Array.Fill(equal, -2);
        (float[] decoded, _) = RoundTrip(Make("topk:0.01"), equal);
        Assert.Equal(500, decoded.Count(static value => value == -2));
        Assert.Equal(49_500, decoded.Count(static value => value == 0));
    }

    [Theory]
    [MemberData(nameof(All))]
    public void The_same_seed_and_position_give_the_same_payload(string name)
    {
        float[] values = Gradient.Of(3000, 6);
        Codec first = Make(name), second = Make(name);
        for (int i = 0; i < 3; i++) RoundTrip(first, values);
        second.Position = 3;
        Assert.Equal(RoundTrip(first, values).Decoded, RoundTrip(second, values).Decoded);
    }

    [Theory]
    [MemberData(nameof(All))]
    public void Foreign_bytes_are_refused_or_give_finite_numbers(string name)
    {
        var random = new Random(17);
        Codec codec = Make(name);
        foreach (int length in new[] { 0, 1, 17, 600, 3000 })
        {
            var payload = new byte[codec.MaxEncodedLength(length)];
            int used = codec.Encode(Gradient.Of(length, 8), payload);
            var decoded = new float[length];
            for (int trial = 0; trial < 400; trial++)
            {
                byte[] foreign = payload[..used];
                if (trial % 4 == 0) foreign = new byte[random.Next(0, (2 * used) + 3)];
                if (trial % 4 == 0) random.NextBytes(foreign);
                if (trial % 4 == 1) foreign = foreign[..random.Next(0, used + 1)];
                if (trial % 4 == 2) foreign = [.. foreign, .. new byte[random.Next(1, 9)]];
                for (int flips = trial % 4 == 3 ? random.Next(1, 6) : 0; flips > 0 && foreign.Length > 0; flips--) foreign[random.Next(foreign.Length)] ^= (byte)(1 << random.Next(8));
                try
                {
                    codec.Decode(foreign, decoded);
                    Assert.All(decoded, value => Assert.True(float.IsFinite(value)));
                }
                catch (InvalidDataException error)
                {
                    Assert.Contains("payload", error.Message, StringComparison.Ordinal);
                }
            }
        }
    }

    [Theory]
    [InlineData("fp16")]
    [InlineData("topk:0.5")]
    public void Values_beyond_binary16_get_through(string name)
    {
        foreach (float size in new[] { 1e30f, 40_000, 2e-8f, 1e-30f })
        {
            (float[] decoded, _) = RoundTrip(Make(name), [size, -size, 0]);
            Assert.Equal(size, decoded[0], size / 1000);
            Assert.Equal(-size, decoded[1], size / 1000);
            Assert.Equal(0, decoded[2]);
        }
    }

    [Theory]
    [MemberData(nameof(All))]
    public void The_largest_values_that_are_allowed_get_through(string name)
    {
        (float[] decoded, _) = RoundTrip(Make(name), [.. Enumerable.Range(0, 100).Select(static i => i % 2 == 0 ? Codec.LargestValue : -Codec.LargestValue)]);
        Assert.All(decoded, value => Assert.True(float.IsFinite(value)));
    }

    private static float LargestNear(float[] values, int index, int block)
    {
        int start = index / block * block;
        return values.AsSpan(start, Math.Min(block, values.Length - start)).ToArray().Max(Math.Abs);
    }
}
