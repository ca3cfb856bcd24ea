using Skein.Training.Data;
using static TorchSharp.torch;

namespace Skein.Training.Tests;

/// <summary>A strategy whose first fit was cancelled has the next one with the same model before it.</summary>
internal static class FitsAfterCancellation
{
    /// <summary>Cancels a fit on rank 1, fits for 16 steps more, and cancels another one, to see that this still works.</summary>
    public static async Task Check(Strategy strategy, int rank)
    {
        using nn.Module<Tensor, Tensor> model = Models.Mlp();
        using InMemoryDataset data = Models.Data();
        using var optimizer = optim.SGD(model.parameters(), 0.1);
        await Cancelled();
        Assert.Equal(16, await Fit(4, CancellationToken.None));
        await Cancelled();

        async Task Cancelled()
        {
            using var cancellation = new CancellationTokenSource();
            await Assert.ThrowsAnyAsync<OperationCanceledException>(() => Fit(10_000, cancellation.Token, cancellation.Cancel));
        }

        async Task<int> Fit(int epochs, CancellationToken token, Action? cancel = null)
        {
            int steps = 0;
            var trainer = new Trainer(model, optimizer, Models.CrossEntropy)
            {
                Strategy = strategy,
                BatchSize = 24,
                StepCompleted = _ =>
                {
                    if (++steps == 6 && rank == 1) cancel?.Invoke();
                },
            };
            await trainer.FitAsync(data, epochs, token);
            return steps;
        }
    }
}
