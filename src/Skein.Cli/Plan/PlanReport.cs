using System.Globalization;
using System.Text.Encodings.Web;
using System.Text.Json;
using Skein.Training.Planning;
using Spectre.Console;

namespace Skein.Cli.Plan;

/// <summary>A plan as it is printed.</summary>
internal sealed record PlanRow(
    string Mesh, int? Zero, string? Schedule, int? MicroBatches, long MemoryBytes, bool Fits, double BubbleFraction, long BytesPerStep,
    double StepSeconds, double SamplesPerSecond, string Command);

/// <summary>A plan that cannot be, and why.</summary>
internal sealed record ImpossibleRow(string Mesh, int? Zero, string Reason);

/// <summary>Predicted beside measured.</summary>
internal sealed record PlanCheck(int Steps, double PredictedStepSeconds, double StepSeconds, long PredictedMemoryBytes, long MemoryBytes);

/// <summary>What <c>skein plan</c> prints.</summary>
internal sealed record PlanReport(
    string Workload, string Model, int Workers, long MemoryBytes, int BatchSize, IReadOnlyList<PlanRow> Plans, IReadOnlyList<ImpossibleRow>? Impossible, PlanCheck? Check)
{
    // A person reads the first few.
    private const int ShownPlans = 12;

    private static readonly JsonSerializerOptions Format = new() { PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower, Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    public static PlanRow Row(PlanPrediction prediction, PlanOptions options) => new(
        prediction.Plan.Mesh.ToString(), (int?)prediction.Plan.Zero, prediction.Plan.Schedule?.ToString(), prediction.Plan.Schedule is null ? null : prediction.Plan.MicroBatches,
        (long)prediction.MemoryBytes, prediction.MemoryBytes <= options.MemoryBytes, prediction.BubbleFraction, (long)prediction.BytesPerStep,
        prediction.StepSeconds, prediction.SamplesPerSecond, TrainArguments.Command(prediction.Plan, options));

    public string ToJson() => JsonSerializer.Serialize(this, Format);

    public void WriteForPeople(TextWriter writer, bool all)
    {
        IAnsiConsole console = AnsiConsole.Create(new AnsiConsoleSettings { Out = new AnsiConsoleOutput(writer) });
        // Lines of a table that are cut in pipes would help nobody.
        console.Profile.Width = Math.Max(console.Profile.Width, 140);
        var table = new Table { Border = TableBorder.Simple };
        foreach (string header in (string[])["mesh", "zero", "schedule", "memory", "fits", "bubble", "MB sent", "step, s", "samples/s"]) table.AddColumn(header);
        foreach (PlanRow row in all ? Plans : Plans.Take(ShownPlans))
        {
            table.AddRow(
                row.Mesh, row.Zero is { } zero ? Invariant($"{zero}") : "", row.Schedule is null ? "" : Invariant($"{row.Schedule}, {row.MicroBatches} micro-batches"), ByteSize.Format(row.MemoryBytes), row.Fits ? "yes" : "no",
                row.Schedule is null ? "" : Invariant($"{row.BubbleFraction:P0}"), Invariant($"{row.BytesPerStep / 1e6:0.0}"), Invariant($"{row.StepSeconds:0.0000}"), Invariant($"{row.SamplesPerSecond:0.0}"));
        }

        writer.WriteLine(Invariant($"{Workload} {Model}, {Workers} workers with {ByteSize.Format(MemoryBytes)} each, batches of {BatchSize}; sent per worker and step"));
        console.Write(table);
        if (!all && Plans.Count > ShownPlans) writer.WriteLine(Invariant($"and {Plans.Count - ShownPlans} more: --verbose"));
        foreach (ImpossibleRow row in Impossible ?? []) writer.WriteLine(Invariant($"not {row.Mesh}{(row.Zero is { } zero ? $" zero {zero}" : "")}: {row.Reason}"));
        if (Plans[0].Fits) writer.WriteLine($"best: {Plans[0].Command}");
        if (Check is not { } check) return;
        writer.WriteLine(Invariant($"step: predicted {check.PredictedStepSeconds:0.0000} s, measured {check.StepSeconds:0.0000} s ({check.PredictedStepSeconds / check.StepSeconds:0.00} times)"));
        writer.WriteLine(Invariant($"memory: predicted {ByteSize.Format(check.PredictedMemoryBytes)}, measured {ByteSize.Format(check.MemoryBytes)} ({(double)check.PredictedMemoryBytes / check.MemoryBytes:0.00} times)"));
    }

    private static string Invariant(FormattableString text) => text.ToString(CultureInfo.InvariantCulture);
}
