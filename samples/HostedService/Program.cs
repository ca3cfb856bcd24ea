// A service that trains in the background, with what it needs from dependency injection, until it is stopped (SIGTERM, Ctrl-C).
using Microsoft.Extensions.Configuration;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Hosting;
using Microsoft.Extensions.Logging;
using Skein.Collectives;
using Skein.Training;
using Skein.Workloads;
using static TorchSharp.torch;

HostApplicationBuilder builder = Host.CreateApplicationBuilder(args);
builder.Logging.AddSimpleConsole(static console => console.SingleLine = true);
builder.Services.AddSingleton<TrainingStatus>();             // what other services ask how far training is
builder.Services.AddHostedService<TrainingService>();
await builder.Build().RunAsync();

internal sealed class TrainingStatus
{
    private long steps;

    public long Steps { get => Interlocked.Read(ref steps); set => Interlocked.Exchange(ref steps, value); }
}

internal sealed class TrainingService(TrainingStatus status, IConfiguration settings, ILogger<TrainingService> logger) : BackgroundService
{
    protected override async Task ExecuteAsync(CancellationToken stoppingToken)
    {
        await using var group = await ProcessGroup.InitializeAsync(cancellationToken: stoppingToken);
        using var data = await Workload.Find("digits")!.LoadDataAsync(stoppingToken);
        random.manual_seed(1);
        using var model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10));
        using var optimizer = optim.Adam(model.parameters(), 0.002);
        using var strategy = new DataParallel(group);
        var trainer = new Trainer(model, optimizer, (output, labels) => nn.functional.cross_entropy(output, labels))
        {
            Strategy = strategy,
            BatchSize = 48,
            StepCompleted = step =>
            {
                status.Steps = step.Step;
                if (step.Step == 1) logger.LogInformation("training on {Ranks} ranks", group.WorldSize);
            },
        };
        try
        {
            await trainer.FitAsync(data.Train, epochs: settings.GetValue("epochs", 5), stoppingToken);
            EvaluationReport test = await trainer.EvaluateAsync(data.Test, stoppingToken);
            logger.LogInformation(
                "trained {Steps} steps, loss {Loss:0.0000}, accuracy {Accuracy:0.000}", status.Steps, test.Loss, test.Accuracy);
        }
        catch (OperationCanceledException) when (stoppingToken.IsCancellationRequested)
        {
            // All ranks ended after the same step: here is the place to save the model.
            logger.LogInformation("stopped after {Steps} steps", status.Steps);
        }
    }
}
