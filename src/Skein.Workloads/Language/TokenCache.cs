using System.Diagnostics;
using System.Runtime.InteropServices;
using System.Security.Cryptography;
using Skein.Training.LibTorch;

namespace Skein.Workloads.Language;

/// <summary>
/// A text's tokens in the user's cache, so that of the workers on a machine one makes them, and not even that in the next run. Where
/// there is no cache to write to, each makes its own.
/// </summary>
internal static class TokenCache
{
    private const int MostTexts = 8;
    private static readonly TimeSpan LongestWait = TimeSpan.FromMinutes(2);
    private static readonly TimeSpan Retry = TimeSpan.FromMilliseconds(20);

    /// <summary>The tokens of <paramref name="text"/>.</summary>
    public static IReadOnlyList<int> Encode(string text, TextTokenizer tokenizer) =>
        // Bytes are their own tokens.
        tokenizer.Vocabulary == 256 ? tokenizer.Encode(text) : Encode(text, tokenizer, UserCache.PathOf("tokens"));

    internal static IReadOnlyList<int> Encode(string text, TextTokenizer tokenizer, string directory)
    {
        string key = Convert.ToHexStringLower(SHA256.HashData(MemoryMarshal.AsBytes(text.AsSpan())))[..32];
        string path = Path.Combine(directory, $"{tokenizer.Name}-{key}");
        try
        {
            if (Read(path, tokenizer) is { } known) return known;
            Directory.CreateDirectory(directory);
            using FileStream? turn = TakeTurn($"{path}.lock");
            if (Read(path, tokenizer) is { } made) return made;
            IReadOnlyList<int> tokens = tokenizer.Encode(text);
            UserCache.Write(path, MemoryMarshal.AsBytes<int>([.. tokens]));
            Forget(directory);
            return tokens;
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            return tokenizer.Encode(text);
        }
    }

    private static int[]? Read(string path, TextTokenizer tokenizer)
    {
        if (!File.Exists(path)) return null;
        int[] tokens = [.. MemoryMarshal.Cast<byte, int>(File.ReadAllBytes(path))];
        return Array.TrueForAll(tokens, token => token >= 0 && token < tokenizer.Vocabulary) ? tokens : null;
    }

    /// <returns>Null when whoever works has not come to an end: then this process works too.</returns>
    private static FileStream? TakeTurn(string path)
    {
        for (long start = Stopwatch.GetTimestamp(); Stopwatch.GetElapsedTime(start) < LongestWait; Thread.Sleep(Retry))
        {
            try
            {
                return new FileStream(path, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None);
            }
            catch (IOException) when (File.Exists(path))
            {
                // Another process works.
            }
        }

        return null;
    }

    private static void Forget(string directory)
    {
        IEnumerable<FileInfo> texts = new DirectoryInfo(directory).EnumerateFiles().Where(static file => file.Extension != ".lock");
        foreach (FileInfo old in texts.OrderByDescending(static file => file.LastWriteTimeUtc).Skip(MostTexts))
        {
            old.Delete();
            File.Delete($"{old.FullName}.lock");
        }
    }
}
