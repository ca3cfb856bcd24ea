using Skein.Training.Meshes;
using Skein.Training.Pipeline;
using Skein.Training.Planning;

namespace Skein.Training.Tests.Planning;

public class PlannerTests
{
    private static readonly CollectiveCosts Free = CollectiveCosts.OfLink(1e18, 0);

    [Theory]
    [InlineData(1, 1)]
    [InlineData(2, 3)]
    [InlineData(6, 9)]
    [InlineData(8, 10)]
    [InlineData(12, 18)]
    public void Every_factorisation_is_possible_or_has_a_reason_not_to_be(int workers, int meshes)
    {
        var (possible, impossible) = PlanCandidates.Of(Profiles.Of(4), workers, batchSize: 24);
        MeshShape[] all = [.. possible.Concat(impossible.Select(static entry => entry.Plan)).Select(static plan => plan.Mesh).Distinct()];
        Assert.All(all, mesh => Assert.Equal(workers, mesh.WorldSize));
        Assert.Equal(meshes, all.Select(static mesh => mesh.ToString()).Distinct().Count());
        Assert.All(impossible, static entry => Assert.NotEmpty(entry.Reason));
        Assert.Equal(possible.Count, possible.Distinct().Count());
    }

    [Fact]
    public void What_cannot_be_says_why()
    {
        var (_, impossible) = PlanCandidates.Of(Profiles.Of(4, [new TensorLimit("attention", 6, "heads", Equally: true)]), 8, batchSize: 12);
        Assert.Equal("a batch of 12 does not divide by 8 data-parallel ranks", Reason(8, 1, 1));
        Assert.Equal("the model's 4 layers cannot be cut into 8 stages with parameters in each", Reason(1, 8, 1));
        Assert.Equal("module 'attention' has 6 heads, which 8 ranks cannot share", Reason(1, 1, 8));

        string Reason(int data, int stages, int tensor) => impossible.Single(entry => entry.Plan.Data == data && entry.Plan.Stages == stages && entry.Plan.Tensor == tensor).Reason;
    }

    [Fact]
    public void Sharded_stages_of_a_pipeline_gather_their_parameters_for_every_pass()
    {
        // Two layers of 400 bytes on each stage, of which a rank sends its half; three forward and backward passes after another.
        const double gather = 400;
        const int microBatches = 2, inARow = microBatches + 2 - 1;
        PlanPrediction[] predictions = [.. new[] { ZeroStage.Gradients, ZeroStage.Parameters }.Select(static zero => Planner.Predict(
            Profiles.Of(4), CollectiveCosts.OfLink(1, 0), new ParallelPlan(new MeshShape(data: 2, pipeline: 2), zero, PipelineSchedule.OneForwardOneBackward, microBatches), batchSize: 8))];
        Assert.Equal((2 * inARow * gather) - gather, predictions[1].StepSeconds - predictions[0].StepSeconds, 1e-6);
        Assert.Equal((2 * microBatches * gather) - gather, predictions[1].BytesPerStep - predictions[0].BytesPerStep, 1e-6);
    }

    [Fact]
    public void Without_communication_data_parallel_ranks_take_their_part_of_the_time()
    {
        PlanPrediction prediction = Planner.Predict(Profiles.Of(4), Free, new ParallelPlan(new MeshShape(data: 4)), batchSize: 32);
        Assert.Equal(4 * 8 * (Profiles.Forward + Profiles.Backward), prediction.StepSeconds, 1e-6);
        // The gradients of 400 parameters, as a ring sends them.
        Assert.Equal(2 * 3 / 4.0 * 1600, prediction.BytesPerStep, 1e-6);
    }

    [Fact]
    public void A_pipelines_bubble_is_that_of_the_closed_form()
    {
        var plan = new ParallelPlan(new MeshShape(pipeline: 4), Schedule: PipelineSchedule.OneForwardOneBackward, MicroBatches: 8);
        PlanPrediction prediction = Planner.Predict(Profiles.Of(4), Free, plan, batchSize: 16);
        // Narayanan et al. 2021: (p - 1)/(m + p - 1) of the step.
        Assert.Equal(3 / 11.0, prediction.BubbleFraction, 1e-6);
        Assert.Equal(11 * 2 * (Profiles.Forward + Profiles.Backward), prediction.StepSeconds, 1e-6);
    }

    [Fact]
    public void A_slow_link_costs_what_its_bytes_take()
    {
        PlanPrediction free = Planner.Predict(Profiles.Of(4), Free, new ParallelPlan(new MeshShape(pipeline: 1, data: 2)), 2);
        PlanPrediction slow = Planner.Predict(Profiles.Of(4) with { Cores = 1, Threads = 1 }, CollectiveCosts.OfLink(800, 0), new ParallelPlan(new MeshShape(data: 2)), 2);
        Assert.True(slow.StepSeconds > free.StepSeconds + 1.9, $"{slow.StepSeconds} after {free.StepSeconds}");
    }

    [Fact]
    public void What_fits_comes_first_the_fastest_ahead()
    {
        ModelProfile profile = Profiles.Of(4);
        IReadOnlyList<ParallelPlan> plans = PlanCandidates.Of(profile, 4, 32).Possible;
        double[] sizes = [.. Planner.Rank(profile, Free, plans, 32, double.MaxValue).Select(static plan => plan.MemoryBytes).Order()];
        double limit = sizes[sizes.Length / 2];
        IReadOnlyList<PlanPrediction> ranked = Planner.Rank(profile, Free, plans, 32, limit);
        int fitting = ranked.Count(plan => plan.MemoryBytes <= limit);
        Assert.InRange(fitting, 1, ranked.Count - 1);
        Assert.All(ranked.Take(fitting), plan => Assert.True(plan.MemoryBytes <= limit));
        Assert.Equal(ranked.Take(fitting).OrderBy(static plan => plan.StepSeconds).Select(static plan => plan.StepSeconds), ranked.Take(fitting).Select(static plan => plan.StepSeconds));
        Assert.Equal(ranked.Skip(fitting).OrderBy(static plan => plan.MemoryBytes).Select(static plan => plan.MemoryBytes), ranked.Skip(fitting).Select(static plan => plan.MemoryBytes));
    }
}
