// Alone:             dotnet run -c Release
// As two processes:  dotnet tool restore, dotnet build -c Release, then
//                    dotnet skein launch -n 2 -- dotnet bin/Release/net10.0/SkeinTrain.dll
// Both see the same samples in every step and end with the same model.
using Skein.Collectives;
using Skein.Training;
using Skein.Training.Data;
using static TorchSharp.torch;

await using var group = await ProcessGroup.InitializeAsync();   // from the environment of any launcher
random.manual_seed(1);                                          // the same data and initial parameters on every rank
using var train = Spirals(3000);
using var test = Spirals(600);
using var model = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 3));
using var optimizer = optim.Adam(model.parameters(), 0.01);
using var strategy = new DataParallel(group);                   // the only line that knows of other processes

var trainer = new Trainer(model, optimizer, (output, labels) => nn.functional.cross_entropy(output, labels))
{
    Strategy = strategy,
    BatchSize = 60,   // over all ranks
};
var report = await trainer.FitAsync(train, epochs: 20);
var result = await trainer.EvaluateAsync(test);
if (group.Rank == 0)
{
    Console.WriteLine($"{group.WorldSize} ranks, {report.Steps} steps, accuracy {result.Accuracy:0.000}");
    model.save("model.dat");
}

// Points on three arms of a spiral, and the arm of each.
static InMemoryDataset Spirals(int count)
{
    using var scope = NewDisposeScope();
    var arm = randint(0, 3, count);
    var radius = rand(count);
    var angle = radius * 4 + arm * (2 * Math.PI / 3) + randn(count) * 0.15;
    var points = stack([radius * angle.cos(), radius * angle.sin()], 1);
    return new InMemoryDataset(points, arm.to(int64));
}
