using Skein.Training.Data;
using static TorchSharp.torch;

namespace Skein.Training;

/// <summary>
/// Random numbers of each rank's own. LibTorch's generator is one for the process, and dropout draws from it: ranks that have seeded it
/// alike, to begin with equal parameters, would drop the same places of their different samples.
/// </summary>
public static class RankGenerator
{
    /// <summary>
    /// Seeds LibTorch's generator from the seed and this rank. To be called once the model is made. Ranks that divide a model draw the
    /// same numbers, as they have to; the same seed and number of ranks give the same ones again.
    /// </summary>
    /// <param name="strategy">Says which rank this is: <see cref="Strategy.Rank"/>.</param>
    /// <param name="seed">The same on every rank.</param>
    public static void Seed(Strategy strategy, long seed)
    {
        ArgumentNullException.ThrowIfNull(strategy);
        var mixed = new SplitMix64(seed, strategy.Rank);
        // TorchSharp takes seeds from 0.
        random.manual_seed((long)(mixed.NextDouble() * (1L << 53)));
    }
}
