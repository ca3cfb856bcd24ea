using Skein.ParameterServer;
using Skein.Training.Embeddings;
using static TorchSharp.torch;

namespace Skein.Training.ParameterServers;

/// <summary>
/// An embedding table whose rows live on the parameter servers: a forward pass pulls the rows that the batch names,
/// each once, and the strategy pushes their gradients. The worker never holds the table, which may be larger than its
/// memory. Usable once <see cref="ParameterServerStrategy"/> is attached to the model; one thread at a time.
/// </summary>
public sealed class RemoteEmbedding : nn.Module<Tensor, Tensor>
{
    private readonly List<(long[] Ids, Tensor Rows)> pulled = [];
    private ParameterServerClient? client;
    private int table;

    /// <summary>A table of the shape and initial values that <paramref name="spec"/> asks for.</summary>
    public RemoteEmbedding(EmbeddingSpec spec)
        : base(nameof(RemoteEmbedding))
    {
        ArgumentNullException.ThrowIfNull(spec);
        Spec = spec;
    }

    /// <summary>What the model asked for.</summary>
    public EmbeddingSpec Spec { get; }

    /// <inheritdoc/>
    /// <param name="input">Indices (whole numbers of any type, any shape).</param>
    /// <returns>Their rows: one dimension more.</returns>
    /// <exception cref="ArgumentException">The input is not of whole numbers.</exception>
    public override Tensor forward(Tensor input)
    {
        ArgumentNullException.ThrowIfNull(input);
        ParameterServerClient servers = client ?? throw new InvalidOperationException($"the table '{Spec.Name}' is on parameter servers: attach a ParameterServerStrategy to the model first");
        if (input.is_floating_point() || input.is_complex() || input.dtype == ScalarType.Bool)
        {
            throw new ArgumentException(
                $"the table '{Spec.Name}' got indices of type {input.dtype}: give whole numbers, as int64", nameof(input));
        }

        if (input.numel() == 0) return zeros([.. input.shape, Spec.Dimension], device: input.device);
        (Tensor distinct, Tensor? inverse, _) = input.reshape(-1).to(ScalarType.Int64).cpu().unique(return_inverse: true);
        long[] ids = distinct.data<long>().ToArray();
        var values = new float[ids.Length * Spec.Dimension];
        servers.PullRows(table, ids, values);
        Tensor rows = tensor(values, [ids.Length, Spec.Dimension], device: input.device);
        if (training && is_grad_enabled())
        {
            rows.requires_grad_(true);
            pulled.Add((ids, rows.DetachFromDisposeScope()));
        }

        return rows.index_select(0, inverse!.to(input.device)).reshape([.. input.shape, Spec.Dimension]);
    }

    internal void Bind(ParameterServerClient servers, int index)
    {
        client = servers;
        table = index;
    }

    /// <summary>The gradients since the last call, of which each may name the same rows.</summary>
    internal IEnumerable<RowGradients> TakeGradients()
    {
        var taken = new List<RowGradients>(pulled.Count);
        foreach ((long[] ids, Tensor rows) in pulled)
        {
            using (rows)
            using (Tensor? gradient = rows.grad)
            {
                if (gradient is not null) taken.Add(new RowGradients(table, ids, gradient.cpu().contiguous().data<float>().ToArray()));
            }
        }

        pulled.Clear();
        return taken;
    }
}
