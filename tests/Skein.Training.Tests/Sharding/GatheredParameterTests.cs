using Skein.Training.Data;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training.Tests.Sharding;

public class GatheredParameterTests
{
    private static ShardedOptions Linears(ZeroStage stage) => new() { Stage = stage, Units = static (_, module) => module is Linear, Overlap = true };

    [Fact]
    public async Task Stage_3s_parameters_are_no_zeros_outside_of_a_call_and_cannot_be_written()
    {
        await RankThreads.Run(2, async group =>
        {
            using InMemoryDataset data = Models.Data(count: 32);
            using nn.Module<Tensor, Tensor> model = Models.Mlp();
            using var strategy = new ShardedDataParallel(group);
            await new Trainer(model, static parameters => optim.SGD(parameters, 0.1), Models.CrossEntropy) { Strategy = strategy }.FitAsync(data);
            var first = (Linear)model.children().First();
            using (no_grad())
            {
                Assert.True(first.forward(data.Features).isnan().all().ToBoolean());
                Assert.True(float.IsNaN(first.weight.sum().ToSingle()));
                using Tensor other = zeros(32, 20);
                Assert.ThrowsAny<Exception>(() => first.weight.copy_(other));
                Assert.All(model.state_dict().Values, static value => Assert.True(value.isnan().all().ToBoolean()));
            }

            // Shapes stay, and calls go on.
            Assert.Equal([32, 20], first.weight.shape);
            using (no_grad()) Assert.True(model.call(data.Features).isfinite().all().ToBoolean());
            return 0;
        });
    }

    [Theory]
    [InlineData(ZeroStage.Gradients)]
    [InlineData(ZeroStage.Parameters)]
    public async Task Gathered_parameters_are_those_of_one_process_and_what_is_put_into_them_is_kept(ZeroStage stage)
    {
        using InMemoryDataset all = Models.Data(count: 48);
        using nn.Module<Tensor, Tensor> single = Models.Mlp();
        await Trainer(single, new SingleProcess()).FitAsync(all);
        float[] expected = Models.Parameters(single);
        await RankThreads.Run(2, async group =>
        {
            using InMemoryDataset data = Models.Data(count: 48);
            using nn.Module<Tensor, Tensor> model = Models.Mlp();
            using var strategy = new ShardedDataParallel(group, new ShardedOptions { Stage = stage });
            Trainer trainer = Trainer(model, strategy);
            await trainer.FitAsync(data);
            using (strategy.GatherParameters())
            {
                Models.AssertClose(expected, Models.Parameters(model), 1e-4, 1e-6);
                using var noGradient = no_grad();
                foreach (Parameter parameter in model.parameters()) parameter.fill_(0.25);
            }

            Assert.Equal(Math.Log(5), (await trainer.EvaluateAsync(data)).Loss, 1e-6);
            foreach (optim.ILearningRateController rates in trainer.Optimizer!.ParamGroups) rates.LearningRate = 0;
            await trainer.FitAsync(data);
            Assert.All(strategy.FullParameters(model), static entry => Assert.True(entry.Value.eq(0.25).all().ToBoolean(), entry.Name));
            return 0;
        });

        static Trainer Trainer(nn.Module<Tensor, Tensor> model, Strategy strategy) =>
            new(model, static parameters => optim.SGD(parameters, 0.1), Models.CrossEntropy) { Strategy = strategy, BatchSize = 16 };
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task A_step_through_a_method_beside_forward_is_an_error_that_names_the_unit(bool insteadOfCall)
    {
        var error = await Assert.ThrowsAsync<AggregateException>(() => RankThreads.Run(2, group => new Strategies.Training
        {
            Model = () => new Sidestepping(insteadOfCall),
            Data = static () => Models.Data(count: 32),
        }.Run(new ShardedDataParallel(group, Linears(ZeroStage.Parameters)))));
        Assert.All(error.InnerExceptions, static inner => Assert.Contains("parameters of 'side' (side.weight, side.bias) are used outside", inner.Message, StringComparison.Ordinal));
    }

    [Fact]
    public async Task A_parameter_that_was_filled_while_its_values_were_elsewhere_is_an_error()
    {
        await RankThreads.Run(1, group =>
        {
            using nn.Module<Tensor, Tensor> model = nn.Sequential(("only", nn.Linear(3, 2)));
            using var strategy = new ShardedDataParallel(group);
            strategy.Attach(model);
            using (no_grad()) model.get_parameter("only.bias")!.fill_(0.25);
            var error = Assert.Throws<InvalidOperationException>(() => strategy.GatherParameters());
            Assert.Contains("'only.bias' was written", error.Message, StringComparison.Ordinal);
            return 0;
        });
    }

    [Fact]
    public async Task A_step_while_parameters_are_gathered_is_an_error()
    {
        await RankThreads.Run(1, async group =>
        {
            using InMemoryDataset data = Models.Data(count: 32);
            using nn.Module<Tensor, Tensor> model = Models.Mlp();
            using var strategy = new ShardedDataParallel(group);
            strategy.Attach(model);
            using IDisposable gathered = strategy.GatherParameters();
            var error = await Assert.ThrowsAsync<InvalidOperationException>(
                () => new Trainer(model, static parameters => optim.SGD(parameters, 0.1), Models.CrossEntropy) { Strategy = strategy }.FitAsync(data));
            Assert.Contains("GatherParameters", error.Message, StringComparison.Ordinal);
            return 0;
        });
    }

    [Theory]
    [InlineData(false, ZeroStage.Gradients)]
    [InlineData(true, ZeroStage.Gradients)]
    public async Task A_childs_parameter_that_its_parent_uses_too_gets_all_of_its_gradient(bool before, ZeroStage stage)
    {
        Strategies.Training training = Using(before);
        Strategies.Outcome[] ranks = await RankThreads.Run(2, group => training.Run(new ShardedDataParallel(group, Linears(stage))));
        Strategies.AssertSame(await training.Run(new SingleProcess()), ranks);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task With_stage_3_such_a_use_is_an_error_or_NaN_and_never_another_number(bool before)
    {
        Strategies.Training training = Using(before);
        Strategies.Outcome single = await training.Run(new SingleProcess());
        try
        {
            Strategies.Outcome[] ranks = await RankThreads.Run(2, group => training.Run(new ShardedDataParallel(group, Linears(ZeroStage.Parameters))));
            if (!ranks[0].Losses.All(float.IsNaN)) Strategies.AssertSame(single, ranks);
        }
        catch (AggregateException error)
        {
            Assert.All(error.InnerExceptions, static inner => Assert.Contains("parameters of 'shared'", inner.Message, StringComparison.Ordinal));
        }
    }

    [Theory]
    [InlineData(ScalarType.Float32)]
    [InlineData(ScalarType.BFloat16)]
    public async Task Values_put_into_a_model_between_two_fits_are_where_the_next_one_begins(ScalarType type)
    {
        foreach (string kind in (string[])["single", "ddp", "zero1", "zero2", "pipeline", "local"])
        {
            await RankThreads.Run(kind == "single" ? 1 : 2, async group =>
            {
                if (kind == "local" && type != ScalarType.Float32) return 0;
                using InMemoryDataset data = Models.Data(count: 32);
                using nn.Module<Tensor, Tensor> model = Models.Seeded(1, () => Models.Mlp().to(type));
                using Strategy strategy = kind == "single" ? new SingleProcess() : Strategies.Create(kind, group);
                double rate = 0.1;
                var trainer = new Trainer(model, static parameters => optim.SGD(parameters, 0.1), Models.CrossEntropy) { Strategy = strategy, BatchSize = 16, LearningRate = _ => rate };
                await trainer.FitAsync(data);
                using (no_grad())
                {
                    foreach (Parameter parameter in model.parameters().Where(static parameter => parameter.numel() > 0)) parameter.fill_(0.25);
                }

                rate = 0;
                await trainer.FitAsync(data);
                Assert.All(strategy.FullParameters(model), entry => Assert.True(entry.Value.eq(0.25).all().ToBoolean(), $"{kind}: {entry.Name}"));
                return 0;
            });
        }
    }

    private static Strategies.Training Using(bool before) => new() { Model = () => new Reuser(before), Data = static () => Models.Data(count: 32), BatchSize = 8, Accumulation = 2 };

    /// <summary>Runs a layer by its forward, or in addition to its call.</summary>
    private sealed class Sidestepping : nn.Module<Tensor, Tensor>
    {
        private readonly bool insteadOfCall;
        private readonly Linear first = nn.Linear(20, 20);
        private readonly Linear side = nn.Linear(20, 20);
        private readonly Linear last = nn.Linear(20, 5);

        public Sidestepping(bool insteadOfCall)
            : base(nameof(Sidestepping))
        {
            this.insteadOfCall = insteadOfCall;
            RegisterComponents();
        }

        public override Tensor forward(Tensor input)
        {
            Tensor hidden = first.call(input);
            Tensor aside = side.forward(hidden);
            return last.call(insteadOfCall ? aside : side.call(hidden) + aside);
        }
    }

    /// <summary>Uses the weight of a layer by itself, before or after the layer.</summary>
    private sealed class Reuser : nn.Module<Tensor, Tensor>
    {
        private readonly bool before;
        private readonly Linear shared = nn.Linear(20, 20);
        private readonly Linear other = nn.Linear(20, 20);
        private readonly Linear last = nn.Linear(20, 5);

        public Reuser(bool before)
            : base(nameof(Reuser))
        {
            this.before = before;
            RegisterComponents();
        }

        public override Tensor forward(Tensor input) => before
            ? last.call(shared.call(other.call(input.matmul(shared.weight).tanh())))
            : last.call(other.call(shared.call(input)).tanh().matmul(shared.weight));
    }
}
