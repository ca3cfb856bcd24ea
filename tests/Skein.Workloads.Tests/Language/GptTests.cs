using Skein.Training;
using Skein.Workloads.Language;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Workloads.Tests.Language;

public sealed class GptTests
{
    private static readonly GptConfiguration Rotary = new() { Vocabulary = 50, Context = 16, Layers = 2, Width = 24, Heads = 3 };
    private static readonly GptConfiguration Learned = Rotary with
    {
        Positions = PositionEncoding.Learned,
        Normalization = Normalization.Layer,
        HasBias = true,
        TiesEmbeddings = true,
    };

    [Fact]
    public void Gpt2_has_the_published_number_of_parameters()
    {
        using var model = new Gpt(GptConfiguration.Gpt2(vocabulary: 50_257, context: 1_024));
        Assert.Equal(124_439_808, model.parameters().Sum(static parameter => parameter.numel()));
        Assert.Equal(12 + 2, model.Layers.Count);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void A_token_changes_no_logits_before_it(bool rotary)
    {
        random.manual_seed(1);
        using var model = new Gpt(rotary ? Rotary : Learned);
        using Tensor tokens = randint(0, 50, [2, 16]);
        using Tensor before = model.call(tokens);
        Assert.Equal([2L, 16, 50], before.shape);
        for (int position = 0; position < 16; position++)
        {
            using Tensor changed = tokens.clone();
            changed[0, position] = (tokens[0, position] + 1) % 50;
            using Tensor after = model.call(changed);
            using Tensor difference = (after - before).abs().amax([2]);    // [2, 16]
            Assert.Equal(0, difference[1].max().item<float>());
            if (position > 0) Assert.InRange(difference[0, ..position].max().item<float>(), 0, 1e-6);
            Assert.InRange(difference[0, position].item<float>(), 1e-4, 10);
        }
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void A_fresh_model_guesses_evenly(bool rotary)
    {
        random.manual_seed(2);
        using var model = new Gpt(rotary ? Rotary : Learned);
        using Tensor logits = model.call(randint(0, 50, [8, 16]));
        using Tensor loss = nn.functional.cross_entropy(logits.view(-1, 50), randint(0, 50, [8 * 16]));
        Assert.Equal(Math.Log(50), loss.item<float>(), 0.05);
        loss.backward();
        Assert.All(model.parameters(), static parameter => Assert.True(parameter.grad!.abs().sum().item<float>() > 0));
    }

    [Fact]
    public void Parameters_have_telling_names()
    {
        using var model = new Gpt(Learned);
        string[] names = [.. model.named_parameters().Select(static entry => entry.name)];
        Assert.Equal("layers.0.tokens.weight", names[0]);
        Assert.All(
            [
                "layers.0.positions.weight", "layers.1.norm1.bias", "layers.1.attention.query.weight", "layers.1.attention.output.bias",
                "layers.2.norm2.weight", "layers.2.mlp.up.weight", "layers.2.mlp.down.bias", "layers.3.norm.weight",
            ],
            name => Assert.Contains(name, names));
        // Tied: the table has one name.
        Assert.DoesNotContain(names, static name => name.StartsWith("layers.3.projection", StringComparison.Ordinal));
    }

    [Fact]
    public void Tied_weights_stay_one_parameter()
    {
        using Gpt model = new Gpt(Learned).to(bfloat16);
        Parameter table = model.Layers[0].named_parameters().Single(static entry => entry.name == "tokens.weight").parameter;
        Parameter projection = model.Layers[^1].named_parameters().Single(static entry => entry.name == "projection.weight").parameter;
        Assert.Same(table, projection);
        Assert.Equal(ScalarType.BFloat16, table.dtype);
        using Tensor loss = model.call(randint(0, 50, [2, 16])).to(float32).square().mean();
        loss.backward();
        // Rows of tokens that did not occur have a gradient from the last layer only.
        Assert.True(table.grad!.abs().sum(1).gt(0).all().item<bool>());
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Half_precision_comes_close(bool rotary)
    {
        random.manual_seed(3);
        using var model = new Gpt(rotary ? Rotary : Learned);
        using Tensor tokens = randint(0, 50, [2, 16]);
        using Tensor single = model.call(tokens);
        using Tensor half = model.to(bfloat16).call(tokens);
        Assert.Equal(ScalarType.BFloat16, half.dtype);
        // 8 bits of mantissa.
        Assert.InRange(((half.to(float32) - single).norm() / single.norm()).item<float>(), 1e-5, 0.03);
    }

    [Fact]
    public void Layers_in_order_are_the_model()
    {
        using var model = new Gpt(Rotary);
        using Tensor tokens = randint(0, 50, [1, 16]);
        Tensor composed = tokens;
        foreach (nn.Module<Tensor, Tensor> layer in ((ILayeredModel)model).Layers) composed = layer.call(composed);
        Assert.True(composed.eq(model.call(tokens)).all().item<bool>());
    }

    [Fact]
    public void Some_of_the_heads_run_the_same_code()
    {
        using var model = new Gpt(Rotary with { Layers = 1 });
        using Tensor input = randn(2, 16, 24);
        nn.Module attention = model.Layers[1].named_children().Single(static child => child.name == "attention").module;
        using Tensor whole = ((nn.Module<Tensor, Tensor>)attention).call(input);

        // Heads 0 and 1, and head 2, of eight numbers each: the outputs add up.
        Tensor sum = zeros_like(whole);
        foreach ((int first, int count) in ((int, int)[])[(0, 16), (16, 8)])
        {
            using var part = new Gpt(Rotary with { Layers = 1 });
            nn.Module<Tensor, Tensor> some = (nn.Module<Tensor, Tensor>)part.Layers[1].named_children().Single(static child => child.name == "attention").module;
            var own = some.named_children().ToDictionary(static child => child.name, static child => (Linear?)(child.module as Linear));
            foreach ((string name, nn.Module module) in attention.named_children())
            {
                if (module is not Linear linear) continue;
                using Tensor slice = linear.weight.detach().narrow(name == "output" ? 1 : 0, first, count).clone();
                own[name]!.weight = new Parameter(slice);
            }

            sum += some.call(input);
        }

        Assert.True(sum.allclose(whole, rtol: 1e-4, atol: 1e-6));
    }

    [Fact]
    public void Rotated_queries_and_keys_know_their_distance_only()
    {
        random.manual_seed(4);
        using var rotary = new RotaryPositions(headWidth: 8);
        using Tensor query = randn(8), key = randn(8);
        // The same query and key at each of 40 positions.
        using Tensor queries = rotary.Apply(query.expand(1, 40, 1, 8)).squeeze(), keys = rotary.Apply(key.expand(1, 40, 1, 8)).squeeze();
        using Tensor products = queries.matmul(keys.t());     // [40, 40]
        for (int distance = -20; distance <= 20; distance++)
        {
            using Tensor alike = products.diagonal(distance);
            Assert.InRange((alike.max() - alike.min()).item<float>(), 0, 1e-4);
        }

        Assert.Equal(query.dot(key).item<float>(), products[7, 7].item<float>(), 1e-4);
        Assert.NotEqual(products[7, 7].item<float>(), products[7, 9].item<float>(), 1e-2);
        Assert.Equal(query.norm().item<float>(), queries[39].norm().item<float>(), 1e-4);
        // Pair 1 of 4 turns by 10,000^(-2/8) = 0.1 a position.
        double x = query[2].item<float>(), y = query[3].item<float>();
        Assert.Equal((x * Math.Cos(0.5)) - (y * Math.Sin(0.5)), queries[5, 2].item<float>(), 1e-5);
        Assert.Equal((x * Math.Sin(0.5)) + (y * Math.Cos(0.5)), queries[5, 3].item<float>(), 1e-5);
    }

    [Fact]
    public void Rms_norm_is_its_formula()
    {
        using var norm = new RmsNorm(3);
        using (no_grad()) norm.parameters().Single().copy_(tensor(new float[] { 1, 2, -1 }));
        using Tensor output = norm.call(tensor(new float[] { 3, -4, 12, 0, 0, 0 }, 2, 3));
        double root = Math.Sqrt(((9 + 16 + 144) / 3.0) + 1e-5);
        Assert.All(
            output.data<float>().Zip([3 / root, -8 / root, -12 / root, 0, 0, 0]),
            static pair => Assert.Equal(pair.Second, pair.First, 1e-6));

        // The mean of squares of 1,000s overflows no half.
        using Tensor large = norm.to(bfloat16).call(full([1, 3], 1000, bfloat16));
        Assert.Equal([1f, 2, -1], large.to(float32).data<float>().ToArray());
    }

    [Fact]
    public void What_does_not_divide_is_refused()
    {
        Assert.Contains("24 does not divide by 5", Assert.Throws<ArgumentException>(() => new Gpt(Rotary with { Heads = 5 })).Message, StringComparison.Ordinal);
        Assert.Contains("a head has 3", Assert.Throws<ArgumentException>(() => new Gpt(Rotary with { Heads = 8 })).Message, StringComparison.Ordinal);
        using var model = new Gpt(Learned);
        Assert.Contains("context of 16", Assert.Throws<ArgumentException>(() => model.call(zeros(1, 17, int64))).Message, StringComparison.Ordinal);
    }
}
