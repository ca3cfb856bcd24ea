using Skein.Collectives;
using Skein.Training;
using Skein.Workloads;
using static TorchSharp.torch;

await using var group = await ProcessGroup.InitializeAsync();   // from the environment of any launcher
using var data = await Workload.Find("digits")!.LoadDataAsync(CancellationToken.None);
using var model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10));
using var optimizer = optim.AdamW(model.parameters(), 0.002);
using var strategy = new DataParallel(group);                   // the only line that knows of other processes

var trainer = new Trainer(model, optimizer, (output, labels) => nn.functional.cross_entropy(output, labels))
{
    Strategy = strategy,
    BatchSize = 48,   // over all ranks
};
await trainer.FitAsync(data.Train, epochs: 10);
var test = await trainer.EvaluateAsync(data.Test);
if (group.Rank == 0) Console.WriteLine($"{group.WorldSize} ranks, accuracy {test.Accuracy:0.000}");
