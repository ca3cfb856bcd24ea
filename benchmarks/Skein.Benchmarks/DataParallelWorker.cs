using System.CommandLine;
using System.Diagnostics;
using System.Text.Json;
using Skein.Collectives;
using Skein.Training;
using Skein.Training.Data;
using static TorchSharp.torch;

namespace Skein.Benchmarks;

/// <summary>What each process of a configuration does.</summary>
internal sealed record DataParallelWork(string Model, string Kind, int Batch, int WarmUp, int Steps, string Overlap);

/// <summary>What they measured together: the slowest process's rate, the largest one's memory.</summary>
internal sealed record Measurement(double StepsPerSecond, double PeakMiB, double CommunicationShare, long Parameters);

/// <summary>One process of the data-parallel benchmark.</summary>
internal static class DataParallelWorker
{
    private static readonly Argument<string> Result = new("result");
    private static readonly Argument<string> Work = new("work");

    public static Command Command()
    {
        var command = new Command("ddp-worker") { Result, Work };
        command.Hidden = true;
        command.SetAction(Run);
        return command;
    }

    private static async Task Run(ParseResult parsed, CancellationToken cancellationToken)
    {
        var work = JsonSerializer.Deserialize<DataParallelWork>(parsed.GetValue(Work)!)!;
        set_num_threads(1);
        await using ProcessGroup group = await ProcessGroup.InitializeAsync(cancellationToken: cancellationToken);
        bool? overlap = work.Overlap switch { "on" => true, "off" => false, _ => null };
        using Strategy strategy = work.Kind == "ddp" ? new DataParallel(group, new DataParallelOptions { Overlap = overlap }) : new SingleProcess();
        using nn.Module<Tensor, Tensor> model = Make(work.Model);
        using var optimizer = optim.SGD(model.parameters(), 0.01);
        int samples = 16 * work.Batch * strategy.WorldSize;
        using var data = new InMemoryDataset(randn(samples, 1, 28, 28), randint(0, 10, [samples]), ImageLayout.ChannelsLast);

        long start = 0;
        double seconds = 0, waited = 0;
        var trainer = new Trainer(model, optimizer, nn.CrossEntropyLoss())
        {
            Strategy = strategy,
            BatchSize = work.Batch * strategy.WorldSize,
            MaxSteps = work.WarmUp + work.Steps,
            StepCompleted = info =>
            {
                if (info.Step > work.WarmUp) waited += info.CommunicationTime.TotalSeconds;
                if (info.Step == work.WarmUp)
                {
                    group.Barrier();
                    start = Stopwatch.GetTimestamp();
                }
                else if (info.Step == work.WarmUp + work.Steps)
                {
                    seconds = Stopwatch.GetElapsedTime(start).TotalSeconds;
                }
            },
        };
        await trainer.FitAsync(data, int.MaxValue, cancellationToken);

        double[] largest = [seconds, Process.GetCurrentProcess().PeakWorkingSet64 / 1048576.0, waited / seconds];
        group.AllReduce(largest.AsSpan(), ReduceOperation.Max);
        if (group.Rank != 0) return;
        var measurement = new Measurement(work.Steps / largest[0], largest[1], largest[2], model.parameters().Sum(static parameter => parameter.numel()));
        await File.WriteAllTextAsync(parsed.GetValue(Result)!, JsonSerializer.Serialize(measurement), cancellationToken);
    }

    private static nn.Module<Tensor, Tensor> Make(string name)
    {
        random.manual_seed(1);
        return name switch
        {
            "mlp" => nn.Sequential(nn.Flatten(), nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)),
            "cnn" => nn.Sequential(
                nn.Conv2d(1, 16, 3, padding: 1), nn.ReLU(), nn.MaxPool2d(2),
                nn.Conv2d(16, 32, 3, padding: 1), nn.ReLU(), nn.MaxPool2d(2),
                nn.Flatten(), nn.Linear(32 * 7 * 7, 128), nn.ReLU(), nn.Linear(128, 10)),
            _ => throw new ArgumentException($"no model is named {name}; there are mlp and cnn"),
        };
    }
}
