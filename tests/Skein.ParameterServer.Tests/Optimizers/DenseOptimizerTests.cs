namespace Skein.ParameterServer.Tests;

public class DenseOptimizerTests
{
    public static TheoryData<string> Kinds => new("sgd", "momentum", "adam", "amsgrad", "adagrad");

    [Theory]
    [MemberData(nameof(Kinds))]
    public void Equals_the_formula_in_double_precision(string kind)
    {
        ServerOptimizerOptions options = ServerOptimizerOptions.Parse(kind) with { Momentum = 0.8, Beta1 = 0.7, Beta2 = 0.95 };
        // Every remainder of every vector width.
        for (int length = 0; length < 70; length++)
        {
            float[] parameters = Numbers.Random(length, length);
            Reference[] references = [.. parameters.Select(value => new Reference(options, value))];
            DenseOptimizer optimizer = DenseOptimizer.Create(options, length);
            for (int step = 1; step <= 20; step++)
            {
                // Falling gradients make AMSGrad's maximum differ from the mean square.
                float[] gradient = Numbers.Random((100 * length) + step, length, 4f / step);
                float learningRate = 0.1f / step;
                optimizer.Apply(parameters, gradient, learningRate);
                for (int i = 0; i < length; i++) references[i].Update(gradient[i], learningRate);
            }

            Assert.Equal(20, optimizer.Updates);
            Numbers.AssertClose([.. references.Select(reference => reference.Parameter)], parameters);
        }
    }

    [Theory]
    [MemberData(nameof(Kinds))]
    public void A_result_depends_neither_on_position_nor_on_length(string kind)
    {
        float[] whole = Numbers.Random(1, 101), gradient = Numbers.Random(2, 101);
        float[] parts = [.. whole];
        Step(kind, whole, gradient);
        for (int start = 0, length = 1; start < parts.Length; start += length++)
        {
            int end = Math.Min(start + length, parts.Length);
            Step(kind, parts.AsSpan(start..end), gradient.AsSpan(start..end));
        }

        Assert.Equal(whole, parts);
    }

    [Theory]
    [MemberData(nameof(Kinds))]
    public void Saved_and_loaded_it_goes_on_bitwise_alike(string kind)
    {
        const int Length = 77;
        ServerOptimizerOptions options = ServerOptimizerOptions.Parse(kind);
        DenseOptimizer saved = DenseOptimizer.Create(options, Length), loaded = DenseOptimizer.Create(options, Length);
        float[] parameters = Numbers.Random(3, Length);
        for (int step = 0; step < 5; step++) saved.Apply(parameters, Numbers.Random(step, Length), 0.01f);
        float[] copy = [.. parameters];

        loaded.Load(new BinaryReader(new MemoryStream(Bytes(saved))));
        saved.Apply(parameters, Numbers.Random(9, Length), 0.01f);
        loaded.Apply(copy, Numbers.Random(9, Length), 0.01f);

        Assert.Equal(6, loaded.Updates);
        Assert.Equal(parameters, copy);
    }

    [Fact]
    public void What_does_not_fit_is_not_loaded()
    {
        byte[] momentum = Bytes(DenseOptimizer.Create(ServerOptimizerOptions.Parse("momentum"), 10));
        foreach ((string kind, int length) in new[] { ("momentum", 9), ("adagrad", 10), ("amsgrad", 10) })
        {
            DenseOptimizer other = DenseOptimizer.Create(ServerOptimizerOptions.Parse(kind), length);
            var error = Assert.Throws<InvalidDataException>(() => other.Load(new BinaryReader(new MemoryStream(momentum))));
            Assert.Contains("Momentum with 1 vectors of 10", error.Message, StringComparison.Ordinal);
        }

        DenseOptimizer same = DenseOptimizer.Create(ServerOptimizerOptions.Parse("momentum"), 10);
        Assert.Throws<EndOfStreamException>(() => same.Load(new BinaryReader(new MemoryStream(momentum[..^1]))));
    }

    [Fact]
    public void A_gradient_of_another_length_is_refused()
    {
        DenseOptimizer optimizer = DenseOptimizer.Create(new ServerOptimizerOptions(), 4);

        Assert.Throws<ArgumentException>(() => optimizer.Apply(new float[4], new float[5], 0.1f));
        Assert.Throws<ArgumentException>(() => DenseOptimizer.Create(ServerOptimizerOptions.Parse("adam"), 4).Apply(new float[5], new float[5], 0.1f));
    }

    [Fact]
    public void Options_have_torchs_defaults_and_refuse_what_is_out_of_range()
    {
        Assert.Equal(1e-8, ServerOptimizerOptions.Parse("adam").Epsilon);
        Assert.Equal(1e-10, ServerOptimizerOptions.Parse("adagrad").Epsilon);
        Assert.Equal(1e-3, (ServerOptimizerOptions.Parse("adagrad") with { Epsilon = 1e-3 }).Epsilon);
        Assert.Throws<ArgumentOutOfRangeException>(() => new ServerOptimizerOptions { Momentum = 1 });
        Assert.Throws<ArgumentOutOfRangeException>(() => new ServerOptimizerOptions { Beta2 = double.NaN });
        Assert.Throws<ArgumentOutOfRangeException>(() => new ServerOptimizerOptions { Epsilon = -1 });
        Assert.Contains("'adamw'; choose sgd", Assert.Throws<FormatException>(() => ServerOptimizerOptions.Parse("adamw")).Message, StringComparison.Ordinal);
    }

    private static void Step(string kind, Span<float> parameters, ReadOnlySpan<float> gradient) =>
        DenseOptimizer.Create(ServerOptimizerOptions.Parse(kind), parameters.Length).Apply(parameters, gradient, 0.1f);

    private static byte[] Bytes(DenseOptimizer optimizer)
    {
        using var stream = new MemoryStream();
        optimizer.Save(new BinaryWriter(stream));
        return stream.ToArray();
    }
}
