namespace Skein.Workloads;

/// <summary>Data that are no part of Skein: files on this machine, or elsewhere until they are fetched. Thread-safe.</summary>
/// <param name="Name">What they are, for people.</param>
/// <param name="Find">
/// Returns the folder on this machine that holds them, or null: then they have to be fetched. Throws
/// <see cref="FileNotFoundException"/> when the user named a folder that lacks some.
/// </param>
/// <param name="FetchAsync">
/// Returns that folder too, and where there is none fetches the files into the user's cache first. Of several processes one works
/// and the others wait for it. Throws <see cref="FileNotFoundException"/>, with what to do, when nobody has the files,
/// <see cref="IOException"/> when they cannot be stored, and <see cref="TimeoutException"/> when the other process comes to no end.
/// </param>
public sealed record ExternalData(
    string Name, Func<string?> Find, Func<IProgress<FetchProgress>?, CancellationToken, Task<string>> FetchAsync);

/// <summary>What is being fetched, and how far that is.</summary>
/// <param name="What">The activity, for people.</param>
/// <param name="Bytes">How much of it is there.</param>
/// <param name="Total">How much it is in all; 0 where that is not known, or the activity is no transfer.</param>
public readonly record struct FetchProgress(string What, long Bytes = 0, long Total = 0);
