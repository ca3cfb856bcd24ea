using System.Numerics.Tensors;
using Skein.Collectives;
using Skein.Training.Data;

namespace Skein.Training.Compression.AllReduce;

/// <summary>
/// PowerSGD (Vogels et al. 2019, algorithm 1): each matrix M of gradients becomes P·Qᵀ of low rank by one step of subspace
/// iteration from the last Q; P and Q are averaged by ordinary all-reduces. Vectors, and matrices that would not shrink,
/// are sent as they are.
/// </summary>
internal sealed class PowerSgdAllReduce : CompressedAllReduce
{
    private const float Negligible = 1e-30f;

    private readonly List<Factors> matrices = [];
    private readonly List<(int Offset, int Length)> plain = [];
    private readonly float[] first;
    private readonly float[] second;
    private readonly int plainStart;
    private SplitMix64 random;

    /// <param name="group">The ranks.</param>
    /// <param name="places">The parameters' places in the vector.</param>
    /// <param name="rank">Columns of P and Q.</param>
    /// <param name="seed">Where the first Q comes from; the same on all ranks.</param>
    public PowerSgdAllReduce(ProcessGroup group, IEnumerable<ParameterPlace> places, int rank, long seed) : base(group)
    {
        random = new SplitMix64(seed, 0);
        int firstLength = 0, secondLength = 0;
        foreach (ParameterPlace place in places)
        {
            int columns = Math.Min(rank, Math.Min(place.Rows, place.Columns));
            if ((long)columns * (place.Rows + place.Columns) < (long)place.Rows * place.Columns)
            {
                matrices.Add(new Factors(place, columns, firstLength, secondLength));
                firstLength += columns * place.Rows;
                secondLength += columns * place.Columns;
            }
            else
            {
                plain.Add((place.Offset, place.Rows * place.Columns));
            }
        }

        plainStart = firstLength;
        first = GC.AllocateArray<float>(firstLength + plain.Sum(static part => part.Length), pinned: true);
        second = GC.AllocateArray<float>(secondLength, pinned: true);
        foreach (ref float value in second.AsSpan()) value = Draw();
    }

    public override bool NeedsFeedback => true;

    public override void Average(Span<float> values, Span<float> kept)
    {
        foreach (Factors matrix in matrices) matrix.MultiplyByQ(values, second, first);
        int offset = plainStart;
        foreach ((int start, int length) in plain)
        {
            values.Slice(start, length).CopyTo(first.AsSpan(offset));
            offset += length;
        }

        AllReduce(first);
        foreach (Factors matrix in matrices)
        {
            matrix.Orthogonalize(first);
            matrix.MultiplyByP(values, first, second);
        }

        if (!kept.IsEmpty)
        {
            kept.Clear();
            foreach (Factors matrix in matrices)
            {
                matrix.Product(first, second, kept);
                Span<float> those = kept.Slice(matrix.Place.Offset, matrix.Place.Rows * matrix.Place.Columns);
                TensorPrimitives.Subtract(values.Slice(matrix.Place.Offset, those.Length), those, those);
            }
        }

        AllReduce(second);
        values.Clear();
        foreach (Factors matrix in matrices) matrix.Product(first, second, values);
        offset = plainStart;
        foreach ((int start, int length) in plain)
        {
            first.AsSpan(offset, length).CopyTo(values[start..]);
            offset += length;
        }

        foreach (Factors matrix in matrices) Revive(matrix);
    }

    public override void Save(BinaryWriter writer)
    {
        writer.Write(random.State);
        foreach (float value in second) writer.Write(value);
    }

    public override void Load(BinaryReader reader)
    {
        random.State = reader.ReadUInt64();
        foreach (ref float value in second.AsSpan()) value = reader.ReadSingle();
    }

    private void AllReduce(float[] factors)
    {
        long start = Now();
        Group.AllReduce(factors.AsSpan(), ReduceOperation.Average);
        Communicated(start, RingBytes(factors.Length * sizeof(float)));
    }

    // A column of zeros would stay one for ever.
    private void Revive(Factors matrix)
    {
        for (int column = 0; column < matrix.Columns; column++)
        {
            Span<float> q = matrix.Q(second, column);
            if (MathF.Abs(TensorPrimitives.MaxMagnitude<float>(q)) > Negligible) continue;
            foreach (ref float value in q) value = Draw();
        }
    }

    private float Draw() => (float)((2 * random.NextDouble()) - 1);

    /// <summary>One matrix and where its factors lie: P and Q transposed, so that their columns are contiguous.</summary>
    private sealed record Factors(ParameterPlace Place, int Columns, int PStart, int QStart)
    {
        public Span<float> P(Span<float> factors, int column) => factors.Slice(PStart + (column * Place.Rows), Place.Rows);

        public Span<float> Q(Span<float> factors, int column) => factors.Slice(QStart + (column * Place.Columns), Place.Columns);

        public void MultiplyByQ(ReadOnlySpan<float> values, Span<float> second, Span<float> first)
        {
            for (int row = 0; row < Place.Rows; row++)
            {
                ReadOnlySpan<float> m = Row(values, row);
                for (int column = 0; column < Columns; column++) P(first, column)[row] = TensorPrimitives.Dot(m, Q(second, column));
            }
        }

        public void MultiplyByP(ReadOnlySpan<float> values, Span<float> first, Span<float> second)
        {
            second.Slice(QStart, Columns * Place.Columns).Clear();
            for (int row = 0; row < Place.Rows; row++)
            {
                ReadOnlySpan<float> m = Row(values, row);
                for (int column = 0; column < Columns; column++)
                {
                    Span<float> q = Q(second, column);
                    TensorPrimitives.MultiplyAdd(m, P(first, column)[row], q, q);
                }
            }
        }

        /// <summary>Adds P·Qᵀ to the matrix' place.</summary>
        public void Product(Span<float> first, Span<float> second, Span<float> values)
        {
            for (int row = 0; row < Place.Rows; row++)
            {
                Span<float> m = values.Slice(Place.Offset + (row * Place.Columns), Place.Columns);
                for (int column = 0; column < Columns; column++) TensorPrimitives.MultiplyAdd(Q(second, column), P(first, column)[row], m, m);
            }
        }

        /// <summary>Modified Gram-Schmidt; a column that depends on those before it becomes zero.</summary>
        public void Orthogonalize(Span<float> first)
        {
            for (int column = 0; column < Columns; column++)
            {
                Span<float> p = P(first, column);
                float before = TensorPrimitives.Norm<float>(p);
                for (int other = 0; other < column; other++)
                {
                    Span<float> q = P(first, other);
                    TensorPrimitives.MultiplyAdd(q, -TensorPrimitives.Dot<float>(p, q), p, p);
                }

                float norm = TensorPrimitives.Norm<float>(p);
                if (norm > Negligible && norm > 1e-6f * before)
                {
                    TensorPrimitives.Divide(p, norm, p);
                }
                else
                {
                    p.Clear();
                }
            }
        }

        private ReadOnlySpan<float> Row(ReadOnlySpan<float> values, int row) => values.Slice(Place.Offset + (row * Place.Columns), Place.Columns);
    }
}
