using FsCheck;
using FsCheck.Fluent;

namespace Skein.ParameterServer.Tests;

public class EmbeddingTableTests
{
    private const int Dimension = 5;

    private static readonly Config Fixed = Config.QuickThrowOnFailure.WithMaxTest(100).WithReplay(20260302, 1);
    private static readonly TableSpec Table = new("items", 1000, Dimension, 0.1f, 42);

    // Few ids, so that rows are pushed again and again, and different ones each time.
    private static readonly Gen<long[][]> Pushes =
        Gen.Choose(0, 19).Select(id => 52L * id).ArrayOf().Select(ids => ids.Distinct().ToArray()).ArrayOf();

    public static TheoryData<string> Kinds => new("sgd", "momentum", "adam", "amsgrad", "adagrad");

    [Theory]
    [MemberData(nameof(Kinds))]
    public void Each_pushed_row_is_updated_as_by_the_formula_and_no_other(string kind)
    {
        ServerOptimizerOptions options = ServerOptimizerOptions.Parse(kind) with { Beta2 = 0.95 };
        Prop.ForAll(Pushes.ToArbitrary(), pushes =>
        {
            var table = new EmbeddingTable(Table, options);
            long[] all = [.. Enumerable.Range(0, 20).Select(i => 52L * i)];
            Dictionary<long, Reference[]> references = all.Zip(Pull(table, all).Chunk(Dimension))
                .ToDictionary(row => row.First, row => row.Second.Select(value => new Reference(options, value)).ToArray());
            for (int step = 0; step < pushes.Length; step++)
            {
                float[] gradients = Numbers.Random(step, pushes[step].Length * Dimension, 4f / (1 + step));
                table.Push(pushes[step], gradients, 0.05f);
                for (int i = 0; i < gradients.Length; i++) references[pushes[step][i / Dimension]][i % Dimension].Update(gradients[i], 0.05f);
            }

            Assert.Equal(pushes.SelectMany(ids => ids).Distinct().Count(), table.StoredRows);
            Numbers.AssertClose([.. all.SelectMany(id => references[id]).Select(reference => reference.Parameter)], Pull(table, all));
        }).Check(Fixed);
    }

    [Theory]
    [MemberData(nameof(Kinds))]
    public void Saved_and_loaded_it_goes_on_bitwise_alike(string kind)
    {
        EmbeddingTable saved = new(Table, ServerOptimizerOptions.Parse(kind)), loaded = new(Table, ServerOptimizerOptions.Parse(kind));
        long[] first = [7, 3, 999, 0], second = [3, 500];
        saved.Push(first, Numbers.Random(1, 20), 0.1f);
        saved.Push(second, Numbers.Random(2, 10), 0.1f);
        loaded.Push([11], Numbers.Random(3, 5), 0.1f);

        loaded.Load(Reader(Bytes(saved)));
        foreach (EmbeddingTable table in new[] { saved, loaded }) table.Push([999, 1, 3], Numbers.Random(4, 15), 0.1f);

        long[] ids = [.. Enumerable.Range(0, 1000).Select(id => (long)id)];
        Assert.Equal(6, loaded.StoredRows);
        Assert.Equal(Pull(saved, ids), Pull(loaded, ids));
    }

    [Fact]
    public void What_was_saved_of_another_table_or_optimizer_or_is_damaged_is_not_loaded()
    {
        ServerOptimizerOptions options = ServerOptimizerOptions.Parse("adagrad");
        var table = new EmbeddingTable(Table, options);
        table.Push([5, 6], new float[10], 1);
        byte[] bytes = Bytes(table);

        EmbeddingTable[] others =
        [
            new(Table, ServerOptimizerOptions.Parse("momentum")), new(Table, new ServerOptimizerOptions()),
            new(Table with { Seed = 43 }, options), new(Table with { Name = "users" }, options), new(new TableSpec("items", 1000, Dimension, 0.2f, 42), options),
        ];
        foreach (EmbeddingTable other in others)
        {
            Assert.Contains("load it with the options", Assert.Throws<InvalidDataException>(() => other.Load(Reader(bytes))).Message, StringComparison.Ordinal);
        }

        Assert.Throws<EndOfStreamException>(() => table.Load(Reader(bytes[..^1])));

        // The second row, whose id, count, parameters and state end the file, takes the id of the first, or one out of range.
        int second = bytes.Length - 8 - 8 - (2 * Dimension * sizeof(float));
        foreach (byte id in new byte[] { 5, 0xFF })
        {
            bytes[second] = id;
            bytes[second + 1] = (byte)(id == 5 ? 0 : 0xFF);
            Assert.Contains("damaged", Assert.Throws<InvalidDataException>(() => table.Load(Reader(bytes))).Message, StringComparison.Ordinal);
        }

        // The count of rows, before the first, becomes negative.
        bytes[second - (bytes.Length - second) - 1] = 0xFF;
        Assert.Contains("rows; the file is damaged", Assert.Throws<InvalidDataException>(() => table.Load(Reader(bytes))).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_push_that_is_refused_changes_no_row()
    {
        var table = new EmbeddingTable(Table, ServerOptimizerOptions.Parse("momentum"));
        long[] ids = [1, 2, 3];
        float[] before = Pull(table, ids);

        Assert.Contains("row 2 of table 'items' comes twice", Message(() => table.Push([1, 2, 3, 2], new float[20], 1)), StringComparison.Ordinal);
        Assert.Contains("no row 1000; it has rows 0 to 999", Message(() => table.Push([1, 1000], new float[10], 1)), StringComparison.Ordinal);
        Assert.Contains("no row -1", Message(() => table.Pull([-1], new float[5])), StringComparison.Ordinal);
        Assert.Contains("2 rows of table 'items' with 9 values; each row has 5", Message(() => table.Push([1, 2], new float[9], 1)), StringComparison.Ordinal);
        Assert.Contains("each row has 5", Message(() => table.Pull([1], new float[6])), StringComparison.Ordinal);

        Assert.Equal(before, Pull(table, ids));
        table.Push(ids, new float[15], 1);
        Assert.Equal(before, Pull(table, ids));
    }

    [Fact]
    public void Of_ten_million_rows_only_those_pushed_take_memory()
    {
        const int Width = 16, Touched = 100_000, Batch = 1000;
        var table = new EmbeddingTable(new TableSpec("large", 10_000_000, Width, 0.01f, 1), ServerOptimizerOptions.Parse("adagrad"));
        long[] ids = new long[Batch];
        float[] values = new float[Batch * Width];
        long before = GC.GetAllocatedBytesForCurrentThread();
        for (long next = 0; next < Touched; next += Batch)
        {
            for (int i = 0; i < Batch; i++) ids[i] = (next + i) * 97;
            table.Push(ids, values, 0.1f);
        }

        long pushed = GC.GetAllocatedBytesForCurrentThread();
        for (int i = 0; i < Batch; i++) ids[i] = (97L * i) + 1;
        table.Pull(ids, values);
        long pulled = GC.GetAllocatedBytesForCurrentThread();

        Assert.Equal(Touched, table.StoredRows);
        Assert.Equal(pushed, pulled);
        // A row with its state and header has 152 bytes; the rest finds it, and what that has outgrown is counted too.
        Assert.InRange(pushed - before, 152 * Touched, 3 * 152 * Touched);
    }

    [Fact]
    public void To_push_stored_rows_again_allocates_nothing()
    {
        var table = new EmbeddingTable(Table, ServerOptimizerOptions.Parse("adam"));
        long[] ids = [4, 8, 15];
        float[] gradients = new float[15];
        table.Push(ids, gradients, 0.1f);
        long before = GC.GetAllocatedBytesForCurrentThread();

        for (int i = 0; i < 100; i++) table.Push(ids, gradients, 0.1f);
        long after = GC.GetAllocatedBytesForCurrentThread();

        Assert.Equal(before, after);
    }

    private static float[] Pull(EmbeddingTable table, long[] ids)
    {
        float[] rows = new float[ids.Length * Dimension];
        table.Pull(ids, rows);
        return rows;
    }

    private static string Message(Action action) => Assert.Throws<ArgumentException>(action).Message;

    private static BinaryReader Reader(byte[] bytes) => new(new MemoryStream(bytes));

    private static byte[] Bytes(EmbeddingTable table)
    {
        using var stream = new MemoryStream();
        table.Save(new BinaryWriter(stream));
        return stream.ToArray();
    }
}
