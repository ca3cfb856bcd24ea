namespace Skein.ParameterServer;

/// <summary>
/// The rows of an embedding table that one server holds, with an optimizer that knows only the rows of a push: rows that
/// have no gradient are not touched, and each row counts its own updates (lazy Adam; sparse Adagrad; a velocity decays
/// only when its row is pushed). Memory goes with the rows ever pushed. Not thread-safe.
/// </summary>
internal sealed class EmbeddingTable
{
    private readonly TableSpec table;
    private readonly UpdateRule rule;
    private readonly InitialRows initial;
    private readonly RowStore rows;
    private int[] places = [];
    private long pushes;

    public EmbeddingTable(TableSpec table, ServerOptimizerOptions options)
    {
        this.table = table;
        rule = new UpdateRule(options);
        initial = new InitialRows(table);
        rows = new RowStore(table.Dimension * (1 + rule.StateVectors));
    }

    /// <summary>The number of rows that were ever pushed.</summary>
    public int StoredRows => rows.Count;

    /// <summary>Copies rows, one after the other. Stores nothing; an id may come more than once.</summary>
    /// <exception cref="ArgumentException">The length does not fit, or there is no such row.</exception>
    public void Pull(ReadOnlySpan<long> ids, Span<float> destination)
    {
        Check(ids, destination.Length);
        for (int i = 0; i < ids.Length; i++)
        {
            Span<float> row = destination.Slice(i * table.Dimension, table.Dimension);
            if (rows.TryFind(ids[i], out int place)) rows.Values(place)[..table.Dimension].CopyTo(row);
            else initial.Fill(ids[i], row);
        }
    }

    /// <summary>Applies one update to each of the rows.</summary>
    /// <param name="ids">The rows; no id comes twice (<see cref="SparseRows.Combine"/> sees to that).</param>
    /// <param name="gradients">Their gradients, one after the other.</param>
    /// <param name="learningRate">The step size.</param>
    /// <exception cref="ArgumentException">The length does not fit, there is no such row, or an id comes twice; no row has changed.</exception>
    public void Push(ReadOnlySpan<long> ids, ReadOnlySpan<float> gradients, float learningRate)
    {
        Check(ids, gradients.Length);
        Locate(ids);
        int dimension = table.Dimension;
        for (int i = 0; i < ids.Length; i++)
        {
            Span<float> values = rows.Values(places[i]);
            long update = ++rows.Header(places[i]).Updates;
            rule.Apply(values[..dimension], gradients.Slice(i * dimension, dimension), values[dimension..], learningRate, update);
        }
    }

    /// <summary>Writes all stored rows with their optimizer state.</summary>
    public void Save(BinaryWriter writer)
    {
        WriteIdentity(writer);
        writer.Write(rows.Count);
        for (int place = 0; place < rows.Count; place++)
        {
            ref RowHeader header = ref rows.Header(place);
            writer.Write(header.Id);
            writer.Write(header.Updates);
            FloatBlocks.Write(writer, rows.Values(place));
        }
    }

    /// <summary>Reads what <see cref="Save"/> wrote, in place of all rows.</summary>
    /// <exception cref="InvalidDataException">It is of another table or optimizer (nothing was changed), or damaged.</exception>
    /// <exception cref="EndOfStreamException">It ends early.</exception>
    /// <remarks>After an error other than the first the table has some of the rows, and should be thrown away.</remarks>
    public void Load(BinaryReader reader)
    {
        CheckIdentity(reader);
        int count = reader.ReadInt32();
        if (count < 0) throw new InvalidDataException($"table '{table.Name}' was saved with {count} rows; the file is damaged");
        rows.Clear();
        for (; count > 0; count--)
        {
            long id = reader.ReadInt64(), updates = reader.ReadInt64();
            if (id < 0 || id >= table.Rows || updates < 0 || rows.TryFind(id, out _))
                throw new InvalidDataException($"table '{table.Name}' was saved with a row {id} of {updates} updates, which is no row of {table.Rows} or comes twice; the file is damaged");
            int place = rows.Add(id);
            rows.Header(place).Updates = updates;
            FloatBlocks.Read(reader, rows.Values(place));
        }
    }

    /// <summary>Finds where the rows lie, and stores those that are new as they were pulled.</summary>
    private void Locate(ReadOnlySpan<long> ids)
    {
        if (places.Length < ids.Length) places = new int[Math.Max(ids.Length, 2 * places.Length)];
        pushes++;
        for (int i = 0; i < ids.Length; i++)
        {
            if (!rows.TryFind(ids[i], out int place))
            {
                place = rows.Add(ids[i]);
                initial.Fill(ids[i], rows.Values(place)[..table.Dimension]);
            }

            ref RowHeader header = ref rows.Header(place);
            if (header.LastPush == pushes)
                throw new ArgumentException($"row {ids[i]} of table '{table.Name}' comes twice in one push; combine the gradients of a row first", nameof(ids));
            header.LastPush = pushes;
            places[i] = place;
        }
    }

    private void Check(ReadOnlySpan<long> ids, int values)
    {
        if (values != (long)ids.Length * table.Dimension)
            throw new ArgumentException($"{ids.Length} rows of table '{table.Name}' with {values} values; each row has {table.Dimension}", nameof(values));
        foreach (long id in ids)
        {
            if (id < 0 || id >= table.Rows)
                throw new ArgumentException($"table '{table.Name}' has no row {id}; it has rows 0 to {table.Rows - 1}", nameof(ids));
        }
    }

    private void WriteIdentity(BinaryWriter writer)
    {
        writer.Write(table.Name);
        writer.Write(table.Rows);
        writer.Write(table.Dimension);
        writer.Write(table.InitialDeviation);
        writer.Write(table.Seed);
        writer.Write((byte)rule.Options.Kind);
        writer.Write(rule.StateVectors);
    }

    /// <summary>Rows that were never pushed are not in the file: they depend on the whole specification.</summary>
    private void CheckIdentity(BinaryReader reader)
    {
        using var own = new MemoryStream();
        WriteIdentity(new BinaryWriter(own));
        byte[] saved = new byte[own.Length];
        reader.ReadExactly(saved);
        if (!own.GetBuffer().AsSpan(0, saved.Length).SequenceEqual(saved))
            throw new InvalidDataException($"what was saved is not {table} under {rule.Options.Kind} with {rule.StateVectors} vectors of state; load it with the options that it was saved with");
    }
}
