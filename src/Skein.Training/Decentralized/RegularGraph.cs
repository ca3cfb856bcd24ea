using Skein.Training.Data;

namespace Skein.Training.Decentralized;

/// <summary>Draws connected graphs in which all vertices have the same degree.</summary>
internal static class RegularGraph
{
    private const int Attempts = 10_000;

    /// <summary>
    /// Pairs free ends at random where no link is yet (Steger and Wormald 1999), and starts again where that gets stuck
    /// or the graph falls into parts.
    /// </summary>
    public static HashSet<int>[] Create(int vertices, int degree, long seed)
    {
        // Of a dense graph the missing links are drawn: these are few.
        bool complement = degree > (vertices - 1) / 2;
        int drawn = complement ? vertices - 1 - degree : degree;
        var random = new SplitMix64(seed, degree);
        for (int attempt = 0; attempt < Attempts; attempt++)
        {
            if (TryDraw(vertices, drawn, ref random) is not { } graph) continue;
            if (complement) graph = [.. graph.Select((missing, vertex) => Enumerable.Range(0, vertices).Where(other => other != vertex && !missing.Contains(other)).ToHashSet())];
            if (IsConnected(graph)) return graph;
        }

        throw new InvalidOperationException($"no connected graph of {vertices} vertices of degree {degree} was found in {Attempts} attempts; choose another seed or degree");
    }

    public static bool IsConnected(IReadOnlyList<IReadOnlySet<int>> graph)
    {
        var reached = new HashSet<int> { 0 };
        var ahead = new Stack<int>([0]);
        while (ahead.TryPop(out int vertex))
        {
            foreach (int other in graph[vertex].Where(reached.Add)) ahead.Push(other);
        }

        return reached.Count == graph.Count;
    }

    private static HashSet<int>[]? TryDraw(int vertices, int degree, ref SplitMix64 random)
    {
        HashSet<int>[] graph = [.. Enumerable.Range(0, vertices).Select(static _ => new HashSet<int>())];
        List<int> free = [.. Enumerable.Range(0, vertices * degree).Select(end => end / degree)];
        while (free.Count > 0)
        {
            bool found = false;
            for (int attempt = 0; attempt < 8 * free.Count && !found; attempt++)
            {
                int first = random.Next(free.Count), second = random.Next(free.Count);
                (int a, int b) = (free[first], free[second]);
                if (a == b || !graph[a].Add(b)) continue;
                graph[b].Add(a);
                free.RemoveAt(Math.Max(first, second));
                free.RemoveAt(Math.Min(first, second));
                found = true;
            }

            if (!found) return null;
        }

        return graph;
    }
}
