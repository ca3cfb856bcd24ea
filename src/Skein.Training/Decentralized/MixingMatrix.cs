namespace Skein.Training.Decentralized;

/// <summary>
/// The weights W of gossip averaging: peer i moves to Σ_j W_ij x_j. Symmetric and doubly stochastic, so that the peers'
/// mean stays where it is. Immutable and thread-safe.
/// </summary>
public sealed class MixingMatrix
{
    private const double Tolerance = 1e-12;
    private readonly double[,] weights;

    /// <summary>A matrix of these weights, checked.</summary>
    /// <exception cref="ArgumentException">It is not square, symmetric, without negative entries and doubly stochastic.</exception>
    public MixingMatrix(double[,] weights)
    {
        ArgumentNullException.ThrowIfNull(weights);
        this.weights = (double[,])weights.Clone();
        Validate();
    }

    /// <summary>The number of peers.</summary>
    public int Size => weights.GetLength(0);

    /// <summary>What peer <paramref name="row"/> takes of peer <paramref name="column"/>, from 0 to 1.</summary>
    public double this[int row, int column] => weights[row, column];

    /// <summary>
    /// Metropolis-Hastings weights (Xiao and Boyd 2004, "Fast linear iterations for distributed averaging"):
    /// W_ij = 1 / (1 + max(d_i, d_j)) for neighbours, and what is left for the peer itself.
    /// </summary>
    /// <param name="neighbours">Of each peer, as <see cref="GossipTopology.Neighbours"/> gives them.</param>
    /// <exception cref="ArgumentException">The graph is not symmetric.</exception>
    public static MixingMatrix MetropolisHastings(IReadOnlyList<IReadOnlyList<int>> neighbours)
    {
        ArgumentNullException.ThrowIfNull(neighbours);
        var weights = new double[neighbours.Count, neighbours.Count];
        for (int i = 0; i < neighbours.Count; i++)
        {
            double rest = 1;
            foreach (int j in neighbours[i])
            {
                weights[i, j] = 1.0 / (1 + Math.Max(neighbours[i].Count, neighbours[j].Count));
                rest -= weights[i, j];
            }

            // Rounding may leave a speck below 0 where a peer keeps nothing.
            weights[i, i] = Math.Abs(rest) < Tolerance ? 0 : rest;
        }

        return new MixingMatrix(weights);
    }

    /// <summary>
    /// 1 - max(|λ₂|, |λ_n|): in each exchange the peers' distance to their mean falls at least to (1 - gap) of what it was.
    /// 1 means agreement at once, 0 none ever.
    /// </summary>
    public double SpectralGap()
    {
        // λ₁ = 1 belongs to the mean; taken out, the largest that is left counts.
        int n = Size;
        var matrix = new double[n, n];
        for (int i = 0; i < n; i++)
        {
            for (int j = 0; j < n; j++) matrix[i, j] = weights[i, j] - (1.0 / n);
        }

        return 1 - SymmetricEigenvalues.Of(matrix).Max(Math.Abs);
    }

    private void Validate()
    {
        int n = weights.GetLength(0);
        if (n == 0 || weights.GetLength(1) != n) throw new ArgumentException($"a mixing matrix is square, not {n} x {weights.GetLength(1)}");
        for (int i = 0; i < n; i++)
        {
            double row = 0, column = 0;
            for (int j = 0; j < n; j++)
            {
                row += weights[i, j];
                column += weights[j, i];
                if (!(weights[i, j] >= 0)) throw new ArgumentException($"the weight of peer {j} at peer {i} is {weights[i, j]}: weights are 0 or more");
                if (Math.Abs(weights[i, j] - weights[j, i]) > Tolerance) throw new ArgumentException($"peer {i} weighs peer {j} {weights[i, j]}, but peer {j} weighs peer {i} {weights[j, i]}: a mixing matrix is symmetric");
            }

            if (Math.Abs(row - 1) > Tolerance || Math.Abs(column - 1) > Tolerance)
            {
                throw new ArgumentException($"the weights of row {i} add up to {row:R} and of column {i} to {column:R}: a mixing matrix is doubly stochastic, with sums of 1");
            }
        }
    }
}
