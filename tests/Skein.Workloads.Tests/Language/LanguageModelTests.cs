using System.Text;
using Skein.Training;
using Skein.Workloads.Language;
using static TorchSharp.torch;

namespace Skein.Workloads.Tests.Language;

public sealed class LanguageModelTests : IDisposable
{
    private static readonly Workload Model = Workload.Find("language-model")!;
    private readonly string directory = Directory.CreateTempSubdirectory("skein-text-").FullName;

    public void Dispose() => Directory.Delete(directory, recursive: true);

    [Theory]
    [InlineData("bytes")]
    [InlineData("gpt2")]
    public void Tokens_are_the_text_again(string name)
    {
        TextTokenizer tokenizer = TextTokenizer.Create(name);
        foreach (string text in (string[])["In the beginning", "naïve  \n\n\ttext…", "漢字 🙂 <|x|>", "", TextWindows.ReadBible()[..20_000]])
        {
            IReadOnlyList<int> tokens = tokenizer.Encode(text);
            Assert.All(tokens, token => Assert.InRange(token, 0, tokenizer.Vocabulary - 1));
            Assert.Equal(text, tokenizer.Decode(tokens));
        }

        Assert.Throws<ArgumentException>(() => tokenizer.Decode([tokenizer.Vocabulary]));
        Assert.Throws<ArgumentException>(() => tokenizer.Decode([-1]));
    }

    [Fact]
    public void Tokens_of_gpt2_are_the_published_ones()
    {
        // Of OpenAI's encoder.
        Assert.Equal([15496, 11, 995, 0], TextTokenizer.Create("gpt2").Encode("Hello, world!"));
        Assert.Contains("bytes, gpt2", Assert.Throws<ArgumentException>(() => TextTokenizer.Create("words")).Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task The_bible_is_cut_into_windows()
    {
        using WorkloadData data = await Model.LoadDataAsync(CancellationToken.None);
        byte[] text = Encoding.UTF8.GetBytes(TextWindows.ReadBible());
        Assert.Equal(4_404_412, text.Length);
        int train = text.Length - (text.Length / 10);
        Assert.Equal([(train - 1) / 64, 64L], data.Train.Features.shape);
        Assert.Equal([((text.Length / 10) - 1) / 64, 64L], data.Test.Features.shape);
        Check(data.Train.Features[0], 0);
        Check(data.Train.Labels[0], 1);
        Check(data.Train.Features[1000], 64_000);
        Check(data.Train.Labels[data.Train.Count - 1], (64 * (data.Train.Count - 1)) + 1);
        Check(data.Test.Features[0], train);
        Check(data.Test.Labels[data.Test.Count - 1], train + (64 * (data.Test.Count - 1)) + 1);
        Assert.StartsWith("Ge1:1 In the beginning God", TextTokenizer.Create("bytes").Decode([.. data.Train.Features[0].data<long>().Select(static token => (int)token)]), StringComparison.Ordinal);

        void Check(Tensor window, int start) =>
            Assert.Equal(text.Skip(start).Take(64).Select(static value => (long)value), window.data<long>().ToArray());
    }

    [Fact]
    public void A_text_for_just_one_window_is_enough()
    {
        using WorkloadData data = TextWindows.Split([.. Enumerable.Range(0, 40)], context: 3, "it");
        Assert.Equal([33L, 34, 35], data.Train.Features[^1].data<long>().ToArray().Select(static value => value + 3).ToArray());
        Assert.Equal([36L, 37, 38], data.Test.Features[0].data<long>().ToArray());
        Assert.Equal([37L, 38, 39], data.Test.Labels[0].data<long>().ToArray());
        var error = Assert.Throws<InvalidDataException>(() => TextWindows.Split([.. Enumerable.Range(0, 39)], context: 3, "it"));
        Assert.Contains("it takes 40", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Another_text_can_be_read()
    {
        string file = Path.Combine(directory, "text.txt");
        await File.WriteAllTextAsync(file, string.Concat(Enumerable.Repeat("Über den Wolken. ", 100)));
        Workload workload = Model.WithLanguage("gpt-tiny", new LanguageOptions { TextFile = file, Context = 10 });
        using WorkloadData data = await workload.LoadDataAsync(CancellationToken.None);
        Assert.Equal(10, data.Train.Features.shape[1]);
        Assert.Equal([0xC3L, 0x9C, 'b'], data.Train.Features[0, ..3].data<long>().ToArray());

        // GPT-2's model reads GPT-2's tokens.
        using WorkloadData pairs = await Model.WithLanguage("gpt2", new LanguageOptions { TextFile = file, Context = 10 }).LoadDataAsync(CancellationToken.None);
        Assert.Equal(TextTokenizer.Create("gpt2").Encode("Über den")[0], pairs.Train.Features[0, 0].item<long>());

        await File.WriteAllBytesAsync(file, [0x41, 0xFF, 0x42]);
        Assert.Contains("not UTF-8", (await Assert.ThrowsAsync<InvalidDataException>(() => Load(new LanguageOptions { TextFile = file }))).Message, StringComparison.Ordinal);
        await File.WriteAllTextAsync(file, "short");
        Assert.Contains("5 tokens", (await Assert.ThrowsAsync<InvalidDataException>(() => Load(new LanguageOptions { TextFile = file }))).Message, StringComparison.Ordinal);
        using (FileStream large = File.OpenWrite(file)) large.SetLength(LanguageOptions.LongestText + 1);
        Assert.Contains("67,108,865 bytes", Refused(new LanguageOptions { TextFile = file }), StringComparison.Ordinal);
        Assert.Contains("there is no text", Refused(new LanguageOptions { TextFile = file + "x" }), StringComparison.Ordinal);
        Assert.Contains("folder", Refused(new LanguageOptions { TextFile = directory }), StringComparison.Ordinal);
        Assert.Contains("1 to 65536", Refused(new LanguageOptions { Context = 0 }), StringComparison.Ordinal);
        Assert.Contains("bytes, gpt2", Refused(new LanguageOptions { Tokenizer = "words" }), StringComparison.Ordinal);
        Assert.Contains("no language model", Assert.Throws<ArgumentException>(() => Workload.Find("digits")!.WithLanguage("mlp", new LanguageOptions())).Message, StringComparison.Ordinal);

        static Task<WorkloadData> Load(LanguageOptions options) => Model.WithLanguage("gpt-tiny", options).LoadDataAsync(CancellationToken.None);

        static string Refused(LanguageOptions options) => Assert.Throws<ArgumentException>(() => Model.WithLanguage("gpt-tiny", options)).Message;
    }

    [Theory]
    [InlineData("gpt-tiny", (4 * ((12 * 96 * 96) + (2 * 96))) + (2 * 256 * 96) + 96, 64)]
    [InlineData("gpt-small", (6 * ((12 * 384 * 384) + (2 * 384))) + (2 * 256 * 384) + 384, 256)]
    public void Models_have_their_sizes(string name, long parameters, int context)
    {
        using nn.Module<Tensor, Tensor> model = Model.CreateModel(name, 1);
        Assert.Equal(parameters, model.parameters().Sum(static parameter => parameter.numel()));
        Assert.Equal(context, Model.WithLanguage(name, new LanguageOptions()).Language!.Context);
    }

    [Fact]
    public void Flops_of_a_token_are_counted()
    {
        // Each weight of a matrix product is used in two operations forward and four backward; attention in each layer reads a
        // context of keys and one of values, as wide as the model.
        double forward = (2.0 * ((12 * 12 * 768 * 768) + (50_257 * 768))) + (12 * 2 * 2 * 1_024 * 768);
        Assert.Equal(3 * forward, GptConfiguration.Gpt2(50_257, 1_024).FlopsPerToken, 1.0);
    }

    [Fact]
    public void The_loss_is_in_float32_over_all_positions()
    {
        using Tensor logits = randn(2, 3, 7).to(bfloat16), labels = randint(0, 7, [2, 3]);
        using Tensor loss = Model.Loss(logits, labels);
        Assert.Equal(ScalarType.Float32, loss.dtype);
        double sum = 0;
        for (int n = 0; n < 2; n++)
        {
            for (int t = 0; t < 3; t++)
            {
                double[] row = [.. logits[n, t].to(float32).data<float>().Select(static value => (double)value)];
                sum += Math.Log(row.Sum(Math.Exp)) - row[labels[n, t].item<long>()];
            }
        }

        Assert.Equal(sum / 6, loss.item<float>(), 1e-5);
    }

    [Fact]
    public async Task It_learns_a_text_by_heart_and_continues_it()
    {
        string file = Path.Combine(directory, "text.txt");
        await File.WriteAllTextAsync(file, string.Concat(Enumerable.Repeat("the quick brown fox jumps over the lazy dog; ", 60)));
        var language = new LanguageOptions { TextFile = file, Context = 32 };
        Workload workload = Model.WithLanguage("gpt-tiny", language);
        using WorkloadData data = await workload.LoadDataAsync(CancellationToken.None);
        using nn.Module<Tensor, Tensor> model = workload.CreateModel("gpt-tiny", 1);
        using var optimizer = optim.AdamW(model.parameters(), 3e-3);
        var trainer = new Trainer(model, optimizer, workload.Loss) { BatchSize = 12, MaxSteps = 60 };
        TrainingReport report = await trainer.FitAsync(data.Train, 100);
        Assert.Equal(Math.Log(256), report.LossHistory[0], 0.1);
        Assert.InRange((await trainer.EvaluateAsync(data.Test)).Loss, 0, 0.5);

        var generator = new TextGenerator(model, TextTokenizer.Create("bytes"), 32);
        Assert.Equal("jumps over the lazy dog; the quick", generator.Generate("the quick brown fox ", new GenerationOptions { Tokens = 34, Temperature = 0 }));
        string drawn = generator.Generate("the ", new GenerationOptions { Tokens = 40, Temperature = 3, Seed = 1 });
        Assert.Equal(drawn, generator.Generate("the ", new GenerationOptions { Tokens = 40, Temperature = 3, Seed = 1 }));
        Assert.NotEqual(drawn, generator.Generate("the ", new GenerationOptions { Tokens = 40, Temperature = 3, Seed = 2 }));
        Assert.Throws<ArgumentException>(() => generator.Generate("", new GenerationOptions()));
    }

    [Fact]
    public void Tokens_are_drawn_as_often_as_likely()
    {
        float[] logits = [MathF.Log(1), MathF.Log(4), MathF.Log(2), MathF.Log(1)];
        Assert.Equal([125, 500, 250, 125], Count(new GenerationOptions { Temperature = 1 }));
        Assert.Equal([0, 667, 333, 0], Count(new GenerationOptions { Temperature = 1, TopK = 2 }));
        Assert.Equal([0, 1000, 0, 0], Count(new GenerationOptions { Temperature = 0 }));
        Assert.Equal([0, 1000, 0, 0], Count(new GenerationOptions { TopK = 1 }));
        // Half the temperature squares the odds: 1, 16, 4, 1.
        Assert.Equal([45, 727, 182, 45], Count(new GenerationOptions { Temperature = 0.5, TopK = 100 }));
        Assert.Throws<ArgumentException>(() => new GenerationOptions { Temperature = -1 }.Validate());
        Assert.Throws<ArgumentException>(() => new GenerationOptions { Temperature = double.NaN }.Validate());
        Assert.Throws<ArgumentException>(() => new GenerationOptions { TopK = 0 }.Validate());
        Assert.Throws<ArgumentException>(() => new GenerationOptions { Tokens = 0 }.Validate());

        int[] Count(GenerationOptions options)
        {
            const int Points = 100_000;
            int[] counts = new int[logits.Length];
            for (int i = 0; i < Points; i++) counts[TextGenerator.Choose(logits, options, (i + 0.5) / Points)]++;
            return [.. counts.Select(static count => (int)Math.Round(count / (Points / 1000.0)))];
        }
    }
}
