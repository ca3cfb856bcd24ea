using Skein.Training.Embeddings;
using Skein.Workloads.Models;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Workloads.Ratings;

/// <summary>
/// Two towers (Covington, Adams and Sargin 2016, "Deep neural networks for YouTube recommendations"): a network over the embeddings of
/// what belongs to the user, another over those of the item and the lecture, and the product of what they return, beside the mean and
/// the biases of user and item. Maps features of a <see cref="RatingShape"/> to ratings [n].
/// </summary>
public sealed class TwoTower : nn.Module<Tensor, Tensor>
{
    private const float InitialDeviation = 0.05f;
    private const int SmallDimension = 4;

    private readonly Tensor mean;
    private readonly nn.Module<Tensor, Tensor> userBiases;
    private readonly nn.Module<Tensor, Tensor> itemBiases;
    private readonly ModuleList<nn.Module<Tensor, Tensor>> userTables;
    private readonly ModuleList<nn.Module<Tensor, Tensor>> itemTables;
    private readonly nn.Module<Tensor, Tensor> userTower;
    private readonly nn.Module<Tensor, Tensor> itemTower;

    /// <summary>
    /// A model whose tables come from <paramref name="embedding"/>: users, user-ages, items, departments, lecture-ages, services,
    /// user-biases and item-biases.
    /// </summary>
    /// <param name="shape">The number of values of each feature.</param>
    /// <param name="dimension">The length of an embedding of a user or an item, and of what a tower returns, 1 or more.</param>
    /// <param name="mean">The mean rating; not learned.</param>
    /// <param name="embedding">Makes the tables.</param>
    public TwoTower(RatingShape shape, int dimension, double mean, Func<EmbeddingSpec, nn.Module<Tensor, Tensor>> embedding)
        : base(nameof(TwoTower))
    {
        ArgumentNullException.ThrowIfNull(shape);
        ArgumentNullException.ThrowIfNull(embedding);
        this.mean = tensor((float)mean);
        userTables = nn.ModuleList(Table("users", shape.Users, dimension), Table("user-ages", shape.UserAges, SmallDimension));
        itemTables = nn.ModuleList(
            Table("items", shape.Items, dimension),
            Table("departments", shape.Departments, SmallDimension),
            Table("lecture-ages", shape.LectureAges, SmallDimension),
            Table("services", shape.Services, SmallDimension));
        userTower = nn.Sequential(Mlp.Layers(dimension + SmallDimension, 2 * dimension, dimension));
        itemTower = nn.Sequential(Mlp.Layers(dimension + (3 * SmallDimension), 2 * dimension, dimension));
        userBiases = embedding(new("user-biases", shape.Users, 1, 0));
        itemBiases = embedding(new("item-biases", shape.Items, 1, 0));
        RegisterComponents();

        nn.Module<Tensor, Tensor> Table(string name, long rows, int length) => embedding(new(name, rows, length, InitialDeviation));
    }

    /// <inheritdoc/>
    public override Tensor forward(Tensor input)
    {
        Tensor Column(int column) => input.select(1, column);                                           // [n]
        Tensor user = userTower.call(cat([userTables[0].call(Column(RatingShape.User)), userTables[1].call(Column(RatingShape.UserAge))], 1));
        Tensor item = itemTower.call(cat(
            [
                itemTables[0].call(Column(RatingShape.Item)),
                itemTables[1].call(Column(RatingShape.Department)),
                itemTables[2].call(Column(RatingShape.LectureAge)),
                itemTables[3].call(Column(RatingShape.Service)),
            ],
            1));                                                                                        // [n, dimension]
        Tensor biases = userBiases.call(Column(RatingShape.User)) + itemBiases.call(Column(RatingShape.Item));
        return (user * item).sum(1) + biases.squeeze(1) + mean;
    }
}
