namespace Skein.Training.Decentralized;

/// <summary>The eigenvalues of a small symmetric matrix, by Jacobi's rotations (Golub and Van Loan, section 8.5).</summary>
internal static class SymmetricEigenvalues
{
    private const int Sweeps = 60;

    /// <summary>In no order. The matrix is used up.</summary>
    public static double[] Of(double[,] matrix)
    {
        int n = matrix.GetLength(0);
        for (int sweep = 0; sweep < Sweeps; sweep++)
        {
            double off = 0, all = 0;
            for (int i = 0; i < n; i++)
            {
                for (int j = 0; j < n; j++)
                {
                    all += matrix[i, j] * matrix[i, j];
                    if (i != j) off += matrix[i, j] * matrix[i, j];
                }
            }

            if (off <= 1e-30 * Math.Max(all, 1e-30)) break;
            for (int p = 0; p < n; p++)
            {
                for (int q = p + 1; q < n; q++) Rotate(matrix, p, q);
            }
        }

        return [.. Enumerable.Range(0, n).Select(i => matrix[i, i])];
    }

    /// <summary>Makes entry (p, q) zero.</summary>
    private static void Rotate(double[,] matrix, int p, int q)
    {
        if (matrix[p, q] == 0) return;
        double theta = (matrix[q, q] - matrix[p, p]) / (2 * matrix[p, q]);
        double tangent = (theta >= 0 ? 1 : -1) / (Math.Abs(theta) + Math.Sqrt((theta * theta) + 1));
        double cosine = 1 / Math.Sqrt((tangent * tangent) + 1), sine = tangent * cosine;
        int n = matrix.GetLength(0);
        for (int k = 0; k < n; k++)
        {
            (double a, double b) = (matrix[k, p], matrix[k, q]);
            (matrix[k, p], matrix[k, q]) = ((cosine * a) - (sine * b), (sine * a) + (cosine * b));
        }

        for (int k = 0; k < n; k++)
        {
            (double a, double b) = (matrix[p, k], matrix[q, k]);
            (matrix[p, k], matrix[q, k]) = ((cosine * a) - (sine * b), (sine * a) + (cosine * b));
        }
    }
}
