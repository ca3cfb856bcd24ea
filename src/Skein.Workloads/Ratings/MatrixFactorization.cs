using Skein.Training.Embeddings;
using static TorchSharp.torch;

namespace Skein.Workloads.Ratings;

/// <summary>
/// Biased matrix factorization (Koren, Bell and Volinsky 2009, "Matrix factorization techniques for recommender systems"): the mean, a
/// bias of the user, one of the item, one of the context (the department, the age and the service of the lecture, taken together), and
/// the product of the embeddings of user and item. Maps features of a <see cref="RatingShape"/> to ratings [n].
/// </summary>
public sealed class MatrixFactorization : nn.Module<Tensor, Tensor>
{
    private const float InitialDeviation = 0.05f;

    // Scaled by s, a bias feels a weight decay of w as one of w/s²: items differ more than users, and have more ratings.
    private const float ItemBiasScale = 1.5f;

    private readonly Tensor mean;
    private readonly Tensor itemBiasScale = tensor(ItemBiasScale);
    private readonly nn.Module<Tensor, Tensor> users;
    private readonly nn.Module<Tensor, Tensor> items;
    private readonly nn.Module<Tensor, Tensor> userBiases;
    private readonly nn.Module<Tensor, Tensor> itemBiases;
    private readonly nn.Module<Tensor, Tensor> contextBiases;
    private readonly Tensor contextStrides;

    /// <summary>A model whose tables come from <paramref name="embedding"/>: users, items, user-biases, item-biases and context-biases.</summary>
    /// <param name="shape">The number of values of each feature.</param>
    /// <param name="dimension">The length of an embedding, 1 or more.</param>
    /// <param name="mean">The mean rating; not learned.</param>
    /// <param name="embedding">Makes the tables.</param>
    public MatrixFactorization(RatingShape shape, int dimension, double mean, Func<EmbeddingSpec, nn.Module<Tensor, Tensor>> embedding)
        : base(nameof(MatrixFactorization))
    {
        ArgumentNullException.ThrowIfNull(shape);
        ArgumentNullException.ThrowIfNull(embedding);
        this.mean = tensor((float)mean);
        users = embedding(new("users", shape.Users, dimension, InitialDeviation));
        items = embedding(new("items", shape.Items, dimension, InitialDeviation));
        userBiases = embedding(new("user-biases", shape.Users, 1, 0));
        itemBiases = embedding(new("item-biases", shape.Items, 1, 0));
        contextBiases = embedding(new("context-biases", (long)shape.Departments * shape.LectureAges * shape.Services, 1, 0));
        contextStrides = tensor(new long[] { 0, 0, shape.LectureAges * shape.Services, 0, shape.Services, 1 });
        RegisterComponents();
    }

    /// <inheritdoc/>
    public override Tensor forward(Tensor input)
    {
        Tensor user = input.select(1, RatingShape.User), item = input.select(1, RatingShape.Item);      // [n]
        Tensor context = (input * contextStrides).sum(1);                                               // [n]
        Tensor biases = userBiases.call(user) + (itemBiases.call(item) * itemBiasScale) + contextBiases.call(context);
        return (users.call(user) * items.call(item)).sum(1) + biases.squeeze(1) + mean;
    }
}
