using FsCheck;
using FsCheck.Fluent;
using Skein.Training.Pipeline;

namespace Skein.Training.Tests.Pipeline;

public class PipelineScheduleTests
{
    private static readonly Config Fixed = Config.QuickThrowOnFailure.WithMaxTest(600).WithReplay(20260301, 1);

    private static readonly Gen<(PipelineSchedule Schedule, int Stages, int MicroBatches)> Cases =
        from chunks in Gen.Choose(1, 5)
        from schedule in Gen.Elements(PipelineSchedule.GPipe, PipelineSchedule.OneForwardOneBackward, PipelineSchedule.ZeroBubble, PipelineSchedule.Interleaved(chunks))
        from stages in Gen.Choose(1, 9)
        from microBatches in Gen.Choose(0, 40)
        select (schedule, stages, microBatches);

    [Theory]
    [InlineData("gpipe", 1)]
    [InlineData("1f1b", 1)]
    [InlineData("interleaved:3", 3)]
    [InlineData("zero-bubble", 1)]
    public void Names_are_read_as_they_are_written(string name, int chunks)
    {
        PipelineSchedule schedule = PipelineSchedule.Parse(name);
        Assert.Equal(name, schedule.ToString());
        Assert.Equal(chunks, schedule.Chunks);
        Assert.Equal(schedule, PipelineSchedule.Parse(name));
    }

    [Theory]
    [InlineData("")]
    [InlineData("interleaved")]
    [InlineData("interleaved:0")]
    [InlineData("interleaved:-1")]
    [InlineData("1F1B")]
    public void Other_names_are_an_error_that_lists_them(string name)
    {
        var error = Assert.Throws<FormatException>(() => PipelineSchedule.Parse(name));
        Assert.Contains("gpipe, 1f1b, interleaved:V", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Every_schedule_executes_completely_and_in_order() => ForAll(static (schedule, stages, microBatches) =>
    {
        PipelineSimulation.Run(schedule, stages, microBatches, Uniform(schedule, stages, 1, 1, 1));
        PipelineOperationKind[] kinds = schedule.SplitsBackward
            ? [PipelineOperationKind.Forward, PipelineOperationKind.BackwardInput, PipelineOperationKind.BackwardWeight]
            : [PipelineOperationKind.Forward, PipelineOperationKind.Backward];
        return Enumerable.Range(0, stages).All(stage =>
        {
            IReadOnlyList<PipelineOperation> operations = schedule.Operations(stages, stage, microBatches);
            return operations.Count == kinds.Length * schedule.Chunks * microBatches
                && operations.GroupBy(static operation => (operation.Chunk, operation.MicroBatch)).All(group => group.Select(static operation => operation.Kind).SequenceEqual(kinds))
                && kinds.All(kind => Enumerable.Range(0, schedule.Chunks).All(chunk =>
                    operations.Where(operation => operation.Kind == kind && operation.Chunk == chunk).Select(static operation => operation.MicroBatch).SequenceEqual(Enumerable.Range(0, microBatches))));
        });
    });

    [Fact]
    public void Activations_in_flight_are_bounded_as_published() => ForAll(static (schedule, stages, microBatches) => Enumerable.Range(0, stages).All(stage =>
    {
        IReadOnlyList<PipelineOperation> operations = schedule.Operations(stages, stage, microBatches);
        int inFlight = MostInFlight(operations, schedule.SplitsBackward ? PipelineOperationKind.BackwardInput : PipelineOperationKind.Backward);
        int passes = schedule.Chunks * microBatches;
        return schedule.ToString() switch
        {
            "gpipe" => inFlight == microBatches,
            "1f1b" => inFlight == Math.Min(passes, stages - stage),
            // Qi et al., table 2: as much memory as the first stage of 1F1B, counting what weight gradients still need.
            "zero-bubble" => inFlight == Math.Min(passes, stages - stage) && MostInFlight(operations, PipelineOperationKind.BackwardWeight) <= stages,
            _ => inFlight <= Math.Min(passes, (2 * (stages - stage - 1)) + ((schedule.Chunks - 1) * stages) + 1),
        };
    }));

    [Theory]
    [InlineData(1, 2)]
    [InlineData(2, 1)]
    [InlineData(3, 0)]
    public void The_simulated_bubble_is_the_theorys(double forward, double backward)
    {
        foreach (int stages in (int[])[1, 2, 3, 4, 8])
        {
            foreach (int microBatches in (int[])[1, 2, 3, 4, 5, 8, 12, 17, 32])
            {
                AssertBubble(PipelineSchedule.GPipe, stages, microBatches, (stages - 1.0) / (microBatches + stages - 1));
                AssertBubble(PipelineSchedule.OneForwardOneBackward, stages, microBatches, (stages - 1.0) / (microBatches + stages - 1));
            }

            foreach (int groups in (int[])[1, 2, 3, 7])
            {
                foreach (int chunks in (int[])[1, 2, 3])
                {
                    int microBatches = groups * stages;
                    AssertBubble(PipelineSchedule.Interleaved(chunks), stages, microBatches, (stages - 1.0) / ((chunks * microBatches) + stages - 1));
                }
            }
        }

        void AssertBubble(PipelineSchedule schedule, int stages, int microBatches, double expected)
        {
            double simulated = PipelineSimulation.Run(schedule, stages, microBatches, Uniform(schedule, stages, forward, backward, 0)).BubbleFraction;
            Assert.True(Math.Abs(expected - simulated) < 1e-12, $"{schedule}, {stages} stages, {microBatches} micro-batches: {simulated} instead of {expected}");
            Assert.Equal(expected, schedule.BubbleFraction(stages, microBatches), 12);
        }
    }

    [Fact]
    public void Zero_bubble_waits_a_third_as_long_as_1f1b()
    {
        foreach (int stages in (int[])[2, 3, 4, 8])
        {
            foreach (int microBatches in (int[])[stages, stages + 1, 2 * stages, 32])
            {
                PipelineSimulation zero = PipelineSimulation.Run(PipelineSchedule.ZeroBubble, stages, microBatches, Uniform(PipelineSchedule.ZeroBubble, stages, 1, 1, 1));
                PipelineSimulation plain = PipelineSimulation.Run(PipelineSchedule.OneForwardOneBackward, stages, microBatches, Uniform(PipelineSchedule.OneForwardOneBackward, stages, 1, 1, 1));
                // Qi et al., table 2: (P - 1)(F + B - W) instead of (P - 1)(F + B + W).
                Assert.Equal((3 * microBatches) + stages - 1, zero.Duration, 1e-9);
                Assert.Equal((3 * microBatches) + (3 * (stages - 1)), plain.Duration, 1e-9);
                Assert.Equal(PipelineSchedule.ZeroBubble.BubbleFraction(stages, microBatches), zero.BubbleFraction, 12);
            }
        }
    }

    [Fact]
    public void Splitting_the_backward_pass_is_never_slower() => ForAll(static (_, stages, microBatches) =>
        PipelineSimulation.Run(PipelineSchedule.ZeroBubble, stages, microBatches, Uniform(PipelineSchedule.ZeroBubble, stages, 1, 1, 1)).Duration
        <= PipelineSimulation.Run(PipelineSchedule.OneForwardOneBackward, stages, microBatches, Uniform(PipelineSchedule.OneForwardOneBackward, stages, 1, 1, 1)).Duration);

    [Fact]
    public void Communication_and_unequal_chunks_are_simulated()
    {
        // One micro-batch through two stages: F0, message, F1, B1, message, B0, one after the other.
        PipelineSimulation alone = PipelineSimulation.Run(PipelineSchedule.OneForwardOneBackward, 2, 1, [new(1, 2, 0, 0.5), new(3, 4, 0, 0.25)]);
        Assert.Equal(1 + 0.5 + 3 + 4 + 0.25 + 2, alone.Duration, 12);
        Assert.Equal([3.0, 7], alone.Busy);
        Assert.Equal(1 - (5 / 10.75), alone.BubbleFraction, 12);
        Assert.Throws<ArgumentException>(() => PipelineSimulation.Run(PipelineSchedule.Interleaved(2), 2, 1, [new(1, 1)]));
    }

    private static PipelineCosts[] Uniform(PipelineSchedule schedule, int stages, double forward, double backwardInput, double backwardWeight) =>
        [.. Enumerable.Repeat(new PipelineCosts(forward, backwardInput, backwardWeight), stages * schedule.Chunks)];

    private static int MostInFlight(IReadOnlyList<PipelineOperation> operations, PipelineOperationKind end)
    {
        int now = 0, most = 0;
        foreach (PipelineOperation operation in operations)
        {
            if (operation.Kind == PipelineOperationKind.Forward) most = Math.Max(most, ++now);
            else if (operation.Kind == end) now--;
        }

        return most;
    }

    private static void ForAll(Func<PipelineSchedule, int, int, bool> property) =>
        Check.One(Fixed, Prop.ForAll(Cases.ToArbitrary(), @case => property(@case.Schedule, @case.Stages, @case.MicroBatches)));
}
