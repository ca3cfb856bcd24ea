using Skein.Collectives;
using Skein.Training.Data;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training.Tests;

/// <summary>Every strategy that one group of ranks can make, by a short name, and what a training with it comes to.</summary>
internal static class Strategies
{
    /// <summary>Those whose result is that of one process.</summary>
    public static readonly string[] Exact = ["ddp", "overlap", "zero1", "zero2", "zero3", "pipeline"];

    /// <summary>All of them.</summary>
    public static readonly string[] All = [.. Exact, "local", "gossip"];

    public static Strategy Create(string kind, ProcessGroup group) => kind switch
    {
        "ddp" => new DataParallel(group, new DataParallelOptions { Overlap = false }),
        "overlap" => new DataParallel(group, new DataParallelOptions { Overlap = true, BucketBytes = 512, FirstBucketBytes = 128 }),
        "zero1" => new ShardedDataParallel(group, new ShardedOptions { Stage = ZeroStage.OptimizerState }),
        "zero2" => new ShardedDataParallel(group, new ShardedOptions { Stage = ZeroStage.Gradients, Overlap = true }),
        "zero3" => new ShardedDataParallel(group, new ShardedOptions { Stage = ZeroStage.Parameters, Overlap = true }),
        "pipeline" => new PipelineParallel(group),
        "local" => new LocalSgd(group, new LocalSgdOptions { LocalSteps = 2 }),
        "gossip" => new Gossip(group),
        _ => throw new ArgumentOutOfRangeException(nameof(kind), kind, "no such strategy"),
    };

    public sealed record Outcome(IReadOnlyList<float> Losses, Dictionary<string, float[]> State, EvaluationReport Evaluation);

    /// <summary>What a fit changes: set by a test in a copy.</summary>
    public sealed record Training
    {
        public required Func<nn.Module<Tensor, Tensor>> Model { get; init; }

        public required Func<InMemoryDataset> Data { get; init; }

        public Func<IReadOnlyList<Parameter>, optim.Optimizer> Optimizer { get; init; } = static parameters => optim.SGD(parameters, 0.1, momentum: 0.9);

        public Func<Tensor, Tensor, Tensor> Loss { get; init; } = Models.CrossEntropy;

        public Func<Tensor, Tensor, LossSum>? LossSum { get; init; }

        public int BatchSize { get; init; } = 16;

        public int Accumulation { get; init; } = 1;

        public int Epochs { get; init; } = 3;

        public double? MaxGradientNorm { get; init; }

        /// <summary>What happens before each fit; its number of entries is that of the fits.</summary>
        public Action<nn.Module<Tensor, Tensor>, Strategy>[] Fits { get; init; } = [static (_, _) => { }];

        public async Task<Outcome> Run(Strategy strategy)
        {
            using (strategy)
            {
                using InMemoryDataset data = Data();
                using nn.Module<Tensor, Tensor> model = Models.Seeded(1, Model);
                Trainer trainer = LossSum is null
                    ? new Trainer(model, Optimizer, Loss) { Strategy = strategy, BatchSize = BatchSize, GradientAccumulation = Accumulation, MaxGradientNorm = MaxGradientNorm }
                    : new Trainer(model, Optimizer, LossSum) { Strategy = strategy, BatchSize = BatchSize, GradientAccumulation = Accumulation, MaxGradientNorm = MaxGradientNorm };
                var losses = new List<float>();
                foreach (Action<nn.Module<Tensor, Tensor>, Strategy> prepare in Fits)
                {
                    prepare(model, strategy);
                    losses.AddRange((await trainer.FitAsync(data, Epochs)).LossHistory);
                }

                EvaluationReport evaluation = await trainer.EvaluateAsync(data);
                var state = strategy.FullState(model).ToDictionary(
                    static entry => entry.Name, static entry => entry.Value.detach().to(ScalarType.Float32).contiguous().data<float>().ToArray());
                trainer.Optimizer!.Dispose();
                return new Outcome(losses, state, evaluation);
            }
        }

        public Task<Outcome[]> RunRanks(string kind, int ranks = 2) => RankThreads.Run(ranks, group => Run(Create(kind, group)));
    }

    /// <summary>That every rank ended with the state of one process, bitwise the same on all.</summary>
    public static void AssertSame(Outcome single, Outcome[] ranks, double tolerance = 1e-5)
    {
        Models.AssertClose(single.Losses, ranks[0].Losses, tolerance, tolerance);
        Assert.Equal(single.State.Keys, ranks[0].State.Keys);
        foreach ((string name, float[] values) in single.State)
        {
            Models.AssertClose(values, ranks[0].State[name], 10 * tolerance, tolerance);
            Assert.All(ranks, rank => Assert.Equal(ranks[0].State[name], rank.State[name]));
        }

        Assert.Equal(single.Evaluation.Loss, ranks[0].Evaluation.Loss, tolerance);
        Assert.Equal(single.Evaluation.Accuracy, ranks[0].Evaluation.Accuracy);
    }

    /// <summary>Cases for a theory.</summary>
    public static TheoryData<string> Cases(IEnumerable<string> kinds) => [.. kinds];
}
