namespace Skein.ParameterServer;

/// <summary>Where the parameters go that are too small to be split.</summary>
public enum PlacementRule
{
    /// <summary>The largest first, each to the server that holds the fewest elements so far (Graham 1969, "LPT").</summary>
    ByLoad,

    /// <summary>
    /// By consistent hashing (Karger et al. 1997): of N servers' parameters about 1/(N + 1) move when one server more
    /// comes, all of them to it; in return loads differ more.
    /// </summary>
    ConsistentHash,
}
