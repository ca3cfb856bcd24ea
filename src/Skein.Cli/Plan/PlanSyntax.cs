using System.CommandLine;
using Skein.Cli.Train;
using Skein.Collectives;

namespace Skein.Cli.Plan;

/// <summary>The options of <c>skein plan</c>, as written on the command line.</summary>
internal static class PlanSyntax
{
    // As many as show a steady step after those that warm up.
    private const int DefaultCheckSteps = 12;
    private const int FewestCheckSteps = 4;

    private static readonly Argument<string> Workload = new("WORKLOAD") { Description = "What is to be trained, as in skein train" };
    private static readonly Option<string?> Model = new("--model") { HelpName = "NAME", Description = "One of the workload's models [default: its first]" };
    private static readonly Option<int> Workers = new("--workers") { HelpName = "N", Description = "Worker processes on this machine", DefaultValueFactory = static _ => 1 };
    private static readonly Option<string?> Memory = new("--memory") { HelpName = "SIZE", Description = "What each worker may have, for example 24GiB [default: this machine's, divided by the workers]" };
    private static readonly Option<string?> Bandwidth = new("--bandwidth") { HelpName = "RATE", Description = "The rate of each worker's link, for example 100Mbit [default: measured here]" };
    private static readonly Option<string?> Latency = new("--latency") { HelpName = "TIME", Description = "The latency of that link, for example 1ms [default: 0]" };
    private static readonly Option<int?> BatchSize = new("--batch-size") { HelpName = "B", Description = "Samples per optimizer step, over all workers [default: the workload's]" };
    private static readonly Option<string?> Optimizer = new("--optimizer") { HelpName = "O", Description = "sgd, momentum, adam or adamw [default: the workload's]" };
    private static readonly Option<int?> Check = new("--check") { HelpName = "STEPS", Description = "Run the best plan for so many steps, and compare", Arity = ArgumentArity.ZeroOrOne };

    public static Command Create(Func<PlanOptions, Task<int>> run)
    {
        var command = new Command("plan", "Predicts what the ways to share a training among workers take, and ranks them")
        {
            Workload, Model, Workers, Memory, Bandwidth, Latency, BatchSize, Optimizer, Check,
        };
        foreach (Option option in LanguageSyntax.All) command.Add(option);
        command.SetAction((parsed, _) => run(Read(parsed)));
        return command;
    }

    internal static PlanOptions Read(ParseResult parsed)
    {
        int workers = CommandLine.AtLeastOne(parsed, Workers);
        var asked = new TrainOptions
        {
            Workload = parsed.GetRequiredValue(Workload),
            Model = parsed.GetValue(Model),
            BatchSize = parsed.GetValue(BatchSize),
            Optimizer = parsed.GetValue(Optimizer),
            Language = LanguageSyntax.Read(parsed),
            Seed = parsed.GetValue(CommonOptions.Seed),
        };
        TrainPlan training = TrainPlan.Create(asked, worldSize: 1);
        return new PlanOptions
        {
            Training = training,
            TrainArguments = Arguments(parsed, training),
            Workers = workers,
            MemoryBytes = parsed.GetValue(Memory) is { } memory ? ByteSize.Parse(Memory.Name, memory) : GC.GetGCMemoryInfo().TotalAvailableMemoryBytes / workers,
            Link = ReadLink(parsed),
            CheckSteps = parsed.GetResult(Check) is null ? null : ReadSteps(parsed.GetValue(Check) ?? DefaultCheckSteps),
            Json = parsed.GetValue(CommonOptions.Json),
            Verbose = parsed.GetValue(CommonOptions.Verbose),
        };
    }

    private static int ReadSteps(int steps) => steps >= FewestCheckSteps ? steps : throw new UsageException($"{Check.Name} is {steps}: give at least {FewestCheckSteps} steps, because the first ones are slower");

    private static NetworkEmulation? ReadLink(ParseResult parsed)
    {
        if (parsed.GetValue(Bandwidth) is null && parsed.GetValue(Latency) is not null) throw new UsageException($"{Latency.Name} needs {Bandwidth.Name}");
        try
        {
            return NetworkEmulation.Parse(parsed.GetValue(Bandwidth), parsed.GetValue(Latency));
        }
        catch (FormatException error)
        {
            throw new UsageException(error.Message);
        }
    }

    private static string[] Arguments(ParseResult parsed, TrainPlan training)
    {
        var arguments = new List<string> { training.Workload.Name, "--model", training.Model, "--batch-size", $"{training.BatchSize}" };
        foreach (Option option in LanguageSyntax.All.Append(Optimizer))
        {
            if (parsed.GetResult(option) is { Tokens: [var token, ..] }) arguments.AddRange([option.Name, token.Value]);
        }

        return [.. arguments];
    }
}
