using System.Numerics.Tensors;
using System.Runtime.InteropServices;
using Skein.Collectives;

namespace Skein.ParameterServer.Shards;

/// <summary>
/// A shard's parameters, tables and optimizer state. Updates come from one thread; the dense values may be read
/// meanwhile, where asynchrony allows that (Recht et al. 2011, Hogwild!).
/// </summary>
internal sealed unsafe class ShardModel : IDisposable
{
    private readonly float* parameters;
    private readonly DenseOptimizer[] optimizers;
    private readonly EmbeddingTable[] tables;
    private readonly long[] offsets;

    public ShardModel(ShardLayout layout, ServerOptimizerOptions optimizer)
    {
        Layout = layout;
        parameters = (float*)NativePages.Allocate(checked((nint)layout.DenseBytes));
        optimizers = [.. layout.Slices.Select(slice => DenseOptimizer.Create(optimizer, slice.Length))];
        tables = [.. layout.Tables.Select(table => new EmbeddingTable(table, optimizer))];
        offsets = new long[layout.Slices.Count];
        for (int i = 1; i < offsets.Length; i++) offsets[i] = offsets[i - 1] + layout.Slices[i - 1].Length;
    }

    public ShardLayout Layout { get; }

    /// <summary>Whether the dense parameters have their values.</summary>
    public bool Initialized { get; private set; }

    /// <summary>The number of updates so far.</summary>
    public long Version { get; private set; }

    public float* Parameters => parameters;

    public long StoredRows => tables.Sum(static table => (long)table.StoredRows);

    public void Initialize(StagedPush values)
    {
        for (int i = 0; i < offsets.Length; i++) values.Dense(offsets[i], Layout.Slices[i].Length).CopyTo(Slice(i));
        Initialized = true;
    }

    /// <summary>One update with the gradients of <paramref name="push"/>.</summary>
    public void Apply(StagedPush push, double learningRate)
    {
        for (int i = 0; i < offsets.Length; i++)
        {
            if (push.HasSlice(i)) optimizers[i].Apply(Slice(i), push.Dense(offsets[i], Layout.Slices[i].Length), (float)learningRate);
        }

        foreach (SparseGradient sparse in push.Sparse) tables[sparse.Table].Push(sparse.Ids, sparse.Rows, (float)learningRate);
        Version++;
    }

    /// <summary>
    /// Fills <paramref name="sum"/> with the sum of all pushes, in order: it is the same whichever came first. The pushes
    /// stay as they are, since they may be on their way to the backup.
    /// </summary>
    public void Combine(IReadOnlyList<StagedPush> pushes, StagedPush sum)
    {
        var present = new byte[offsets.Length];
        for (int i = 0; i < offsets.Length; i++)
        {
            Span<float> total = sum.Dense(offsets[i], Layout.Slices[i].Length);
            foreach (StagedPush push in pushes.Where(push => push.HasSlice(i)))
            {
                Span<float> gradient = push.Dense(offsets[i], total.Length);
                if (present[i] == 0) gradient.CopyTo(total);
                else TensorPrimitives.Add(total, gradient, total);
                present[i] = 1;
            }
        }

        sum.Present = present;
        sum.Sparse.AddRange(pushes.SelectMany(static push => push.Sparse).GroupBy(static sparse => sparse.Table).Select(Merge));
    }

    public void Compensate(StagedPush push, ReadOnlySpan<float> pulled, float lambda)
    {
        for (int i = 0; i < offsets.Length; i++)
        {
            int length = Layout.Slices[i].Length;
            if (push.HasSlice(i)) DelayCompensation.Apply(push.Dense(offsets[i], length), Slice(i), pulled.Slice(checked((int)offsets[i]), length), lambda);
        }
    }

    public void PullRows(int table, ReadOnlySpan<long> ids, Span<float> rows) => tables[table].Pull(ids, rows);

    public void Save(BinaryWriter writer)
    {
        writer.Write(Version);
        for (int i = 0; i < offsets.Length; i++)
        {
            writer.Write(MemoryMarshal.AsBytes(Slice(i)));
            optimizers[i].Save(writer);
        }

        foreach (EmbeddingTable table in tables) table.Save(writer);
    }

    public void Load(BinaryReader reader)
    {
        Version = reader.ReadInt64();
        for (int i = 0; i < offsets.Length; i++)
        {
            reader.BaseStream.ReadExactly(MemoryMarshal.AsBytes(Slice(i)));
            optimizers[i].Load(reader);
        }

        foreach (EmbeddingTable table in tables) table.Load(reader);
        Initialized = true;
    }

    public void Dispose() => NativeMemory.AlignedFree(parameters);

    private Span<float> Slice(int index) => new(parameters + offsets[index], Layout.Slices[index].Length);

    private SparseGradient Merge(IGrouping<int, SparseGradient> pushes)
    {
        int dimension = Layout.Tables[pushes.Key].Dimension;
        long[] ids = [.. pushes.SelectMany(static push => push.Ids)];
        float[] rows = [.. pushes.SelectMany(static push => push.Rows)];
        int distinct = SparseRows.Combine(ids, rows, dimension);
        return new SparseGradient(pushes.Key, ids[..distinct], rows[..(distinct * dimension)]);
    }
}
