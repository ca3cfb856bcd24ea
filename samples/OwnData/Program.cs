// One's own data: flats.csv, made-up flats with their rents, or another file of numbers whose last column is to be predicted.
using System.Globalization;
using Skein.Collectives;
using Skein.Training;
using Skein.Training.Data;
using TorchSharp;
using static TorchSharp.torch;

await using var group = await ProcessGroup.InitializeAsync();
string path = args is [var given] ? given : Path.Combine(AppContext.BaseDirectory, "flats.csv");

// Every rank reads the whole file; the trainer gives each its part of every batch. Every fifth line is kept for the test.
float[][] rows = [.. File.ReadLines(path).Skip(1).Select(ParseLine)];
float[][] trainRows = [.. rows.Where((_, i) => i % 5 != 0)], testRows = [.. rows.Where((_, i) => i % 5 == 0)];
using Tensor all = ToTensor(trainRows);
using Tensor mean = all.mean([0]), deviation = all.std(0);
using InMemoryDataset train = ToDataset(trainRows), test = ToDataset(testRows);

random.manual_seed(1);
using var model = nn.Sequential(nn.Linear(train.Features.shape[1], 32), nn.ReLU(), nn.Linear(32, 1));
using var optimizer = optim.AdamW(model.parameters(), 0.01);
using var strategy = new DataParallel(group);
var trainer = new Trainer(model, optimizer, (output, target) => nn.functional.mse_loss(output, target))
{
    Strategy = strategy,
    BatchSize = 32,   // over all ranks
};
await trainer.FitAsync(train, epochs: 30);
EvaluationReport report = await trainer.EvaluateAsync(test);
double error = Math.Sqrt(report.Loss) * deviation[-1].ToDouble();
if (group.Rank == 0) Console.WriteLine($"{group.WorldSize} ranks, {report.Samples} flats, off by {error:0.00} a month");

float[] ParseLine(string line, int index)
{
    try
    {
        return [.. line.Split(',').Select(static number => float.Parse(number, CultureInfo.InvariantCulture))];
    }
    catch (FormatException)
    {
        throw new InvalidDataException($"{path}, line {index + 2}: '{line}' is not numbers between commas");
    }
}

// Each column gets mean 0 and deviation 1, by the training rows' figures; the last one is the target.
InMemoryDataset ToDataset(float[][] part)
{
    using DisposeScope scope = NewDisposeScope();
    Tensor normal = (ToTensor(part) - mean) / deviation;
    return new InMemoryDataset(normal[TensorIndex.Colon, ..^1].contiguous(), normal[TensorIndex.Colon, ^1..].contiguous());
}

static Tensor ToTensor(float[][] part) => tensor([.. part.SelectMany(static row => row)], part.Length, part[0].Length);
