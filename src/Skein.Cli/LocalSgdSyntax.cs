using System.CommandLine;
using Skein.Training;

namespace Skein.Cli;

/// <summary>The options of <c>--strategy local-sgd</c>.</summary>
internal static class LocalSgdSyntax
{
    private static readonly Option<int?> LocalSteps = new("--local-steps") { HelpName = "H", Description = "Steps of each worker between two meetings [default: 16]" };
    private static readonly Option<string?> Outer = new("--outer") { HelpName = "O", Description = "What workers do when they meet: average, or diloco (Nesterov momentum on the mean difference) [default: average]" };
    private static readonly Option<double?> OuterLearningRate = new("--outer-learning-rate") { HelpName = "LR", Description = "DiLoCo's outer learning rate [default: 0.7]" };
    private static readonly Option<double?> OuterMomentum = new("--outer-momentum") { HelpName = "M", Description = "DiLoCo's outer momentum [default: 0.9]" };
    private static readonly Option<long?> SynchronousSteps = new("--synchronous-steps") { HelpName = "K", Description = "First steps after each of which workers meet (post-local SGD) [default: 0]" };
    private static readonly Option<int?> Fragments = new("--fragments") { HelpName = "F", Description = "Parts of the model that meet in turns [default: 1]" };

    public static IEnumerable<Option> All => [LocalSteps, Outer, OuterLearningRate, OuterMomentum, SynchronousSteps, Fragments];

    /// <summary>The options that were written on the command line.</summary>
    public static IReadOnlyList<string> Given(ParseResult parsed) =>
        [.. All.Where(option => parsed.GetResult(option) is { Implicit: false }).Select(static option => option.Name)];

    /// <exception cref="UsageException">Something is unknown or out of range.</exception>
    public static LocalSgdOptions Read(ParseResult parsed)
    {
        string outer = parsed.GetValue(Outer) ?? "average";
        int steps = parsed.GetValue(LocalSteps) ?? new LocalSgdOptions().LocalSteps;
        LocalSgdOptions chosen = outer switch
        {
            "average" when parsed.GetValue(OuterLearningRate) is not null => throw new UsageException("--outer-learning-rate needs --outer diloco"),
            "average" when parsed.GetValue(OuterMomentum) is not null => throw new UsageException("--outer-momentum needs --outer diloco"),
            "average" => new LocalSgdOptions { LocalSteps = steps },
            "diloco" => LocalSgdOptions.DiLoCo(steps),
            _ => throw new UsageException($"unknown outer optimizer '{outer}'; choose one of: average, diloco"),
        };
        chosen = chosen with
        {
            OuterLearningRate = parsed.GetValue(OuterLearningRate) ?? chosen.OuterLearningRate,
            OuterMomentum = parsed.GetValue(OuterMomentum) ?? chosen.OuterMomentum,
            SynchronousSteps = parsed.GetValue(SynchronousSteps) ?? chosen.SynchronousSteps,
            Fragments = parsed.GetValue(Fragments) ?? chosen.Fragments,
        };
        try
        {
            chosen.Validate();
            return chosen;
        }
        catch (ArgumentException error)
        {
            throw new UsageException(error.Message);
        }
    }
}
