using System.Globalization;
using Skein.Training.Compression.Codecs;

namespace Skein.Training.Compression;

/// <summary>A way to send fewer bytes.</summary>
public enum CompressionMethod
{
    /// <summary>Float32 as it is.</summary>
    None,

    /// <summary>IEEE 754 binary16, 2 times fewer bytes.</summary>
    Float16,

    /// <summary>The upper half of a float32, 2 times fewer bytes.</summary>
    BFloat16,

    /// <summary>8 bits a value with a scale for every 512 values and error feedback, 4 times fewer bytes.</summary>
    Int8,

    /// <summary>QSGD (Alistarh et al. 2017): 2 to 8 bits a value, rounded at random without bias.</summary>
    Qsgd,

    /// <summary>The largest values (Lin et al. 2018, "Deep gradient compression") with error feedback.</summary>
    TopK,

    /// <summary>Values at random places, the same on all ranks (Stich et al. 2018), with error feedback.</summary>
    RandomK,

    /// <summary>A low-rank approximation of each matrix (Vogels et al. 2019, "PowerSGD") with error feedback.</summary>
    PowerSgd,

    /// <summary>One bit a value and a scale for every 1,024 with error feedback (Karimireddy et al. 2019).</summary>
    Sign,

    /// <summary>One bit a value, by majority vote and without a scale (Bernstein et al. 2019).</summary>
    SignMajority,

    /// <summary>One of the others, chosen at the start by what an average takes on this network.</summary>
    Auto,
}

/// <summary>A method with its number, as written in <c>--compression</c>. Immutable.</summary>
public sealed record CompressionSpec
{
    private const string Choices = "none, fp16, bf16, int8, qsgd:BITS, topk:RATIO, randomk:RATIO, powersgd:RANK, signsgd, signsgd:majority, auto";

    private CompressionSpec(CompressionMethod method) => Method = method;

    /// <summary>Nothing is compressed.</summary>
    public static CompressionSpec None { get; } = new(CompressionMethod.None);

    /// <summary>The method.</summary>
    public CompressionMethod Method { get; }

    /// <summary>Bits a value of QSGD, 2 to 8; else 0.</summary>
    public int Bits { get; private init; }

    /// <summary>The part of the values that top-k and random-k send, above 0 to 1; else 0.</summary>
    public double Ratio { get; private init; }

    /// <summary>PowerSGD's rank, 1 or more; else 0.</summary>
    public int Rank { get; private init; }

    /// <summary>Reads <c>none</c>, <c>fp16</c>, <c>bf16</c>, <c>int8</c>, <c>qsgd:BITS</c>, <c>topk:RATIO</c>, <c>randomk:RATIO</c>, <c>powersgd:RANK</c>, <c>signsgd</c>, <c>signsgd:majority</c> or <c>auto</c>.</summary>
    /// <exception cref="FormatException">It is none of them, or its number is out of range; says which.</exception>
    public static CompressionSpec Parse(string text)
    {
        ArgumentNullException.ThrowIfNull(text);
        string[] parts = text.Split(':', 2);
        string? number = parts.Length == 2 ? parts[1] : null;
        return (parts[0], number) switch
        {
            ("none", null) => None,
            ("fp16", null) => new(CompressionMethod.Float16),
            ("bf16", null) => new(CompressionMethod.BFloat16),
            ("int8", null) => new(CompressionMethod.Int8),
            ("signsgd", null) => new(CompressionMethod.Sign),
            ("signsgd", "majority") => new(CompressionMethod.SignMajority),
            ("auto", null) => new(CompressionMethod.Auto),
            ("qsgd", _) => new(CompressionMethod.Qsgd) { Bits = Whole(text, number, "BITS", 2, 8) },
            ("topk", _) => new(CompressionMethod.TopK) { Ratio = Part(text, number) },
            ("randomk", _) => new(CompressionMethod.RandomK) { Ratio = Part(text, number) },
            ("powersgd", _) => new(CompressionMethod.PowerSgd) { Rank = Whole(text, number, "RANK", 1, 1024) },
            _ => throw new FormatException($"unknown compression '{text}'; choose one of: {Choices}"),
        };
    }

    /// <summary>A codec of this method, for a program's own protocol.</summary>
    /// <param name="seed">Where random choices come from.</param>
    /// <exception cref="NotSupportedException">The method has none: none, PowerSGD (which takes two all-reduces) and auto.</exception>
    public Codec CreateCodec(long seed) => Method switch
    {
        CompressionMethod.Float16 => new Float16Codec(),
        CompressionMethod.BFloat16 => new BFloat16Codec(),
        CompressionMethod.Int8 => new Int8Codec(),
        CompressionMethod.Qsgd => new QsgdCodec(Bits, seed),
        CompressionMethod.TopK => new TopKCodec(Ratio),
        CompressionMethod.RandomK => new RandomKCodec(Ratio, seed),
        CompressionMethod.Sign => new SignCodec(scaled: true),
        CompressionMethod.SignMajority => new SignCodec(scaled: false),
        _ => throw new NotSupportedException($"compression {this} has no codec: choose fp16, bf16, int8, qsgd, topk, randomk or signsgd"),
    };

    /// <summary>As <see cref="Parse"/> reads it.</summary>
    public override string ToString() => Method switch
    {
        CompressionMethod.Float16 => "fp16",
        CompressionMethod.BFloat16 => "bf16",
        CompressionMethod.Int8 => "int8",
        CompressionMethod.Qsgd => $"qsgd:{Bits}",
        CompressionMethod.TopK => string.Create(CultureInfo.InvariantCulture, $"topk:{Ratio}"),
        CompressionMethod.RandomK => string.Create(CultureInfo.InvariantCulture, $"randomk:{Ratio}"),
        CompressionMethod.PowerSgd => $"powersgd:{Rank}",
        CompressionMethod.Sign => "signsgd",
        CompressionMethod.SignMajority => "signsgd:majority",
        CompressionMethod.Auto => "auto",
        _ => "none",
    };

    private static int Whole(string text, string? number, string name, int minimum, int maximum) =>
        int.TryParse(number, NumberStyles.None, CultureInfo.InvariantCulture, out int value) && value >= minimum && value <= maximum
            ? value
            : throw new FormatException($"compression '{text}': {name} is a whole number from {minimum} to {maximum}");

    private static double Part(string text, string? number) =>
        double.TryParse(number, NumberStyles.Float, CultureInfo.InvariantCulture, out double value) && value > 0 && value <= 1
            ? value
            : throw new FormatException($"compression '{text}': RATIO is a number above 0 and at most 1");
}
