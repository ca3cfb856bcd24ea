using System.IO.Compression;
using System.Text;
using Skein.Training.Data;
using static TorchSharp.torch;

namespace Skein.Workloads.Language;

/// <summary>
/// A text as samples: windows of so many tokens that do not overlap, each with the same window one token further as labels, [count,
/// context] int64. The last tenth of the tokens is for testing.
/// </summary>
internal static class TextWindows
{
    private const int TestEvery = 10;
    private static readonly UTF8Encoding Strict = new(encoderShouldEmitUTF8Identifier: false, throwOnInvalidBytes: true);

    /// <exception cref="InvalidDataException">The file is no UTF-8, or too short.</exception>
    internal static WorkloadData Load(string? file, TextTokenizer tokenizer, int context)
    {
        string text = file is null ? ReadBible() : Read(file);
        return Split(TokenCache.Encode(text, tokenizer), context, file ?? "the Bible");
    }

    internal static string ReadBible()
    {
        using Stream resource = typeof(TextWindows).Assembly.GetManifestResourceStream("kjv.txt.gz")!;
        using var reader = new StreamReader(new GZipStream(resource, CompressionMode.Decompress), Strict);
        return reader.ReadToEnd();
    }

    /// <exception cref="InvalidDataException">Either part is too short for one window.</exception>
    internal static WorkloadData Split(IReadOnlyList<int> tokens, int context, string name)
    {
        int test = tokens.Count / TestEvery;
        if (test <= context)
        {
            throw new InvalidDataException(
                $"{name} has {tokens.Count:N0} tokens, and the tenth of them for testing ({test:N0}) holds no window of {context} and the token after it: it takes {TestEvery * (context + 1):N0}; give a longer text, or a smaller --context");
        }

        using Tensor stream = tensor(Array.ConvertAll([.. tokens], static token => (long)token));
        return new WorkloadData(Windows(stream[..^test]), Windows(stream[^test..]));

        // Both views of the one stream: the tokens are in memory once.
        InMemoryDataset Windows(Tensor part)
        {
            using (part)
            {
                long count = (part.shape[0] - 1) / context;
                return new InMemoryDataset(Rows(0), Rows(1));

                Tensor Rows(long offset)
                {
                    using Tensor range = part.narrow(0, offset, count * context);
                    return range.view(count, context);
                }
            }
        }
    }

    private static string Read(string file)
    {
        // Not as text: that would follow the mark of another encoding.
        ReadOnlySpan<byte> bytes = File.ReadAllBytes(file);
        if (bytes.StartsWith(Encoding.UTF8.Preamble)) bytes = bytes[Encoding.UTF8.Preamble.Length..];
        if (bytes.StartsWith(Encoding.Unicode.Preamble) || bytes.StartsWith(Encoding.BigEndianUnicode.Preamble))
        {
            throw new InvalidDataException($"the text {file} is not UTF-8: it begins with the mark of UTF-16; save it as UTF-8");
        }

        try
        {
            return Strict.GetString(bytes);
        }
        catch (DecoderFallbackException error)
        {
            throw new InvalidDataException($"the text {file} is not UTF-8: {error.Message}", error);
        }
    }
}
