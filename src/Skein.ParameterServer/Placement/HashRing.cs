namespace Skein.ParameterServer;

/// <summary>
/// Consistent hashing (Karger et al. 1997, "Consistent hashing and random trees"): servers own points on a ring, a name
/// belongs to the server of the first point from the name's own hash on. A server's points do not depend on how many
/// servers there are.
/// </summary>
internal sealed class HashRing
{
    /// <summary>Loads then vary by about 1/√256, 6 %, from server to server.</summary>
    private const int PointsPerServer = 256;

    private readonly ulong[] points;
    private readonly int[] owners;

    public HashRing(int servers)
    {
        points = new ulong[checked(servers * PointsPerServer)];
        owners = new int[points.Length];
        for (int i = 0; i < points.Length; i++)
        {
            // Mixing is a bijection: no two points coincide.
            points[i] = StableHash.Mix(StableHash.Mix((ulong)i));
            owners[i] = i / PointsPerServer;
        }

        Array.Sort(points, owners);
    }

    public int ServerOf(string name)
    {
        int next = Array.BinarySearch(points, StableHash.Of(name));
        if (next < 0) next = ~next;
        return owners[next == points.Length ? 0 : next];
    }
}
