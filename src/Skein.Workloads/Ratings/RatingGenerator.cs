using Skein.Training.Data;
using static TorchSharp.torch;

namespace Skein.Workloads.Ratings;

/// <summary>
/// An endless sequence of made-up ratings, for tables of any size. Users and items come by Zipf's distribution, the most frequent with the
/// lowest index. A rating is <see cref="Mean"/>, plus the bias of the user, plus that of the item, plus the product of their hidden
/// vectors, plus normal noise; it is neither rounded nor limited to 1..5, so that no model has a mean squared error below
/// <see cref="Noise"/> squared, and one that knows all that is hidden has just that.
/// </summary>
/// <remarks>
/// Rating i depends on the seed and i alone: ranks may take any parts in any order. Nothing is kept: what is hidden in a user or an item
/// is computed from its index whenever it is needed. Thread-safe.
/// </remarks>
public sealed class RatingGenerator
{
    /// <summary>The mean of all ratings.</summary>
    public const double Mean = 3.2;

    private const int Rank = 4;
    private const double BiasDeviation = 0.4;
    private const double ProductDeviation = 0.5;
    private const int RatingStream = 0, UserStream = 1, ItemStream = 2;

    // Uniform over -√3..√3 has variance 1.
    private static readonly double UnitRange = Math.Sqrt(3);
    private static readonly double ProductScale = ProductDeviation / Math.Sqrt(Rank);

    private readonly ZipfDistribution users;
    private readonly ZipfDistribution items;

    /// <summary>A generator of ratings by <see cref="RatingShape.Users"/> of <see cref="RatingShape.Items"/>.</summary>
    /// <param name="shape">How many of each there are.</param>
    /// <param name="userExponent">Zipf's exponent of users, 0 or more; 0 makes all equally frequent.</param>
    /// <param name="itemExponent">Zipf's exponent of items, 0 or more.</param>
    /// <param name="noise">The standard deviation of the noise, 0 or more.</param>
    /// <param name="seed">Seeds everything.</param>
    public RatingGenerator(RatingShape shape, double userExponent = 0.8, double itemExponent = 1.0, double noise = 0.5, long seed = 0)
    {
        ArgumentNullException.ThrowIfNull(shape);
        ArgumentOutOfRangeException.ThrowIfNegative(noise);
        Shape = shape;
        Noise = noise;
        Seed = seed;
        users = new ZipfDistribution(shape.Users, userExponent);
        items = new ZipfDistribution(shape.Items, itemExponent);
    }

    /// <summary>How many users, items and values of other features there are.</summary>
    public RatingShape Shape { get; }

    /// <summary>The standard deviation of the noise.</summary>
    public double Noise { get; }

    /// <summary>The seed.</summary>
    public long Seed { get; }

    /// <summary>Ratings <paramref name="start"/> to <paramref name="start"/> + <paramref name="count"/> - 1, newly made; the caller's to dispose.</summary>
    /// <param name="start">The first, 0 or more.</param>
    /// <param name="count">How many, 1 or more.</param>
    public InMemoryDataset Take(long start, int count)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(start);
        ArgumentOutOfRangeException.ThrowIfLessThan(count, 1);
        var features = new long[(long)count * RatingShape.Columns];
        var ratings = new float[count];
        for (int row = 0; row < count; row++)
        {
            ratings[row] = (float)Make(start + row, features.AsSpan(row * RatingShape.Columns, RatingShape.Columns));
        }

        return new InMemoryDataset(tensor(features, count, RatingShape.Columns), tensor(ratings));
    }

    private double Make(long index, Span<long> features)
    {
        SplitMix64 random = Stream(RatingStream, index);
        long user = users.Sample(ref random) - 1;
        long item = items.Sample(ref random) - 1;
        SplitMix64 ofUser = Stream(UserStream, user), ofItem = Stream(ItemStream, item);
        features[RatingShape.User] = user;
        features[RatingShape.Item] = item;
        features[RatingShape.Department] = ofItem.Next(Shape.Departments);
        features[RatingShape.UserAge] = ofUser.Next(Shape.UserAges);
        features[RatingShape.LectureAge] = random.Next(Shape.LectureAges);
        features[RatingShape.Service] = random.Next(Shape.Services);

        double rating = Mean + (BiasDeviation * (Unit(ref ofUser) + Unit(ref ofItem))) + (Noise * Normal(ref random));
        for (int i = 0; i < Rank; i++) rating += ProductScale * Unit(ref ofUser) * Unit(ref ofItem);
        return rating;
    }

    private SplitMix64 Stream(int kind, long index) => new(unchecked((Seed * 3) + kind), index);

    private static double Unit(ref SplitMix64 random) => UnitRange * ((2 * random.NextDouble()) - 1);

    // Box and Muller 1958.
    private static double Normal(ref SplitMix64 random) =>
        Math.Sqrt(-2 * Math.Log(1 - random.NextDouble())) * Math.Cos(2 * Math.PI * random.NextDouble());
}
