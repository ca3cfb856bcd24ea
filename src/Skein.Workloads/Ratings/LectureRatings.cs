using System.Globalization;
using System.IO.Compression;
using System.Reflection;
using Skein.Training.Data;
using static TorchSharp.torch;

namespace Skein.Workloads.Ratings;

/// <summary>
/// 73,421 ratings of 1,128 lecturers by 2,972 students, in the assembly Skein.Workloads.LectureRatings. A fixed tenth, the first of the rows when
/// <see cref="DistributedSampler"/> shuffles them with seed 0, is for testing (7,342), the others are for training (66,079), both in the
/// order of the file. Every column becomes indices from 0 in the order of its values.
/// </summary>
internal static class LectureRatings
{
    internal static readonly RatingShape Shape = new(Users: 2_972, Items: 1_128);

    private const string DataAssembly = "Skein.Workloads.LectureRatings";
    private const int Count = 73_421;
    private const int TestCount = Count / 10;

    // Of the training ratings.
    private const double Mean = 3.2;

    // Where the columns of the features are in the file: s, d, studage, lectage, service, dept, y.
    private static readonly int[] FileColumns = [0, 1, 5, 2, 3, 4];
    private const int FileRating = 6;

    internal static Workload Workload { get; } = new()
    {
        Name = "lecture-ratings",
        Description = "73,421 ratings of lecturers by students; always at hand",
        Models =
        [
            new("mf", embedding => new MatrixFactorization(Shape, dimension: 8, Mean, embedding)),
            new(
                "two-tower",
                embedding => new TwoTower(Shape, dimension: 8, Mean, embedding),
                new Hyperparameters(Epochs: 20, BatchSize: 960, Optimizer: "sgd", LearningRate: 1, WeightDecay: 4e-4)),
        ],
        LoadDataAsync = _ => Task.FromResult(Load()),
        // A batch has few ratings of any one user, so that a row's gradient is small and the learning rate large.
        Defaults = new Hyperparameters(Epochs: 60, BatchSize: 3840, Optimizer: "sgd", LearningRate: 3, WeightDecay: 5e-4),
        Loss = static (ratings, labels) => nn.functional.mse_loss(ratings, labels),
        Evaluate = static (model, data) => RatingMetrics.Measure(model, data, Shape),
    };

    // The ratings have another licence than this assembly, so they are one of their own, which a program may leave out.
    private static Stream Open()
    {
        try
        {
            return Assembly.Load(DataAssembly).GetManifestResourceStream("insteval.csv.gz")!;
        }
        catch (FileNotFoundException)
        {
            throw new InvalidOperationException($"the ratings are in a package of their own, under the GPL: dotnet add package {DataAssembly}");
        }
    }

    private static WorkloadData Load()
    {
        using Stream resource = Open();
        using var reader = new StreamReader(new GZipStream(resource, CompressionMode.Decompress));
        reader.ReadLine();
        var values = new long[Count * RatingShape.Columns];
        var ratings = new float[Count];
        for (int row = 0; row < Count; row++)
        {
            string[] fields = reader.ReadLine()!.Split(',');
            for (int column = 0; column < FileColumns.Length; column++)
            {
                values[(row * FileColumns.Length) + column] = long.Parse(fields[FileColumns[column]], CultureInfo.InvariantCulture);
            }

            ratings[row] = float.Parse(fields[FileRating], CultureInfo.InvariantCulture);
        }

        using var scope = NewDisposeScope();
        Tensor features = tensor(values, Count, RatingShape.Columns);
        for (int column = 0; column < RatingShape.Columns; column++)
        {
            (_, Tensor? indices, _) = features.select(1, column).unique(sorted: true, return_inverse: true);
            features.select(1, column).copy_(indices!);
        }

        var order = new DistributedSampler(Count, batchSize: Count, rank: 0, worldSize: 1);
        Tensor isTest = zeros(Count, @bool);
        isTest[tensor(order.Order[..TestCount].ToArray())] = true;
        return new WorkloadData(Rows(isTest.logical_not()), Rows(isTest));

        InMemoryDataset Rows(Tensor mask) => new(features[mask], tensor(ratings)[mask]);
    }
}
