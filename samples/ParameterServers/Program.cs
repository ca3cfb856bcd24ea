using Skein.Training;
using Skein.Training.Data;
using Skein.Training.ParameterServers;
using static TorchSharp.torch;

manual_seed(1);   // every worker makes the same data, and the same model
Tensor points = randn(1200, 2);
Tensor inside = points.square().sum(1).lt(1.386).to(ScalarType.Int64);   // of a circle that half of the points are in
using var data = new InMemoryDataset(points, inside);
using var model = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 2));
using var optimizer = optim.SGD(model.parameters(), 0.1, momentum: 0.9);   // what the servers run: --server-optimizer momentum

// The job that skein launch --servers has started, or this process alone: the only line that knows of other processes.
bool alone = Environment.GetEnvironmentVariable(ParameterServerOptions.CoordinatorVariable) is null;
using Strategy strategy = alone ? new SingleProcess() : await ParameterServerStrategy.JoinAsync();

var trainer = new Trainer(model, optimizer, (output, labels) => nn.functional.cross_entropy(output, labels))
{
    Strategy = strategy,
    BatchSize = 48,   // over all workers
};
TrainingReport report = await trainer.FitAsync(data, epochs: 8);
EvaluationReport test = await trainer.EvaluateAsync(data);
Console.WriteLine($"worker {strategy.Rank} of {strategy.WorldSize}: loss {report.TrainLoss:0.000000}, accuracy {test.Accuracy:0.0000}");
