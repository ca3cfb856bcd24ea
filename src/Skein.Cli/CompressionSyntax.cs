using System.CommandLine;
using Skein.Training.Compression;

namespace Skein.Cli;

/// <summary>The options about sending fewer bytes.</summary>
internal static class CompressionSyntax
{
    private static readonly Option<string?> Compression = new("--compression")
    {
        HelpName = "C",
        Description = "none, fp16, bf16, int8, qsgd:BITS, topk:RATIO, randomk:RATIO, powersgd:RANK, signsgd, signsgd:majority or auto; others for some parameters follow, as in topk:0.01;bias,norm=none [default: none]",
    };

    private static readonly Option<int?> Warmup = new("--compression-warmup") { HelpName = "K", Description = "First steps in which top-k sends more, from a quarter down [default: 0]" };
    private static readonly Option<double?> Clip = new("--compression-clip") { HelpName = "NORM", Description = "The largest norm of a bucket's gradients before compression [default: none]" };

    public static IEnumerable<Option> All => [Compression, Warmup, Clip];

    /// <summary>What was asked for; null for no compression.</summary>
    /// <exception cref="UsageException">Something is unknown or out of range.</exception>
    public static CompressionOptions? Read(ParseResult parsed)
    {
        string? text = parsed.GetValue(Compression);
        try
        {
            CompressionRules rules = CompressionRules.Parse(text ?? "none");
            bool compresses = rules.Specs.Any(static spec => spec.Method != CompressionMethod.None);
            if (!compresses && parsed.GetValue(Warmup) is not null) throw new UsageException($"{Warmup.Name} needs --compression");
            if (!compresses && parsed.GetValue(Clip) is not null) throw new UsageException($"{Clip.Name} needs --compression");
            if (!compresses) return null;
            var options = new CompressionOptions
            {
                Rules = rules,
                WarmupSteps = parsed.GetValue(Warmup) ?? 0,
                ClipNorm = parsed.GetValue(Clip),
                Seed = parsed.GetValue(CommonOptions.Seed),
            };
            options.Validate();
            return options;
        }
        catch (Exception error) when (error is FormatException or ArgumentException)
        {
            throw new UsageException(error.Message);
        }
    }
}
