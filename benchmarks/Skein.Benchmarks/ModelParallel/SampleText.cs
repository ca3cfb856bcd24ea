using System.CommandLine;
using System.IO.Compression;

namespace Skein.Benchmarks.ModelParallel;

/// <summary>The first part of a text, in a file that is deleted afterwards: enough to train on, and soon evaluated.</summary>
internal sealed class SampleText : IDisposable
{
    /// <summary>Which text.</summary>
    public static readonly Option<string> Source = new("--text") { DefaultValueFactory = static _ => "data/kjv.txt.gz", Description = "A gzipped text, of which the first part is trained on" };

    private SampleText(string path) => Path = path;

    public string Path { get; }

    public static async Task<SampleText> WriteAsync(ParseResult parsed, int characters, CancellationToken cancellationToken)
    {
        using var reader = new StreamReader(new GZipStream(File.OpenRead(parsed.GetValue(Source)!), CompressionMode.Decompress));
        var text = new char[characters];
        int count = await reader.ReadBlockAsync(text, cancellationToken);
        var sample = new SampleText(System.IO.Path.GetTempFileName());
        await File.WriteAllTextAsync(sample.Path, new string(text, 0, count), cancellationToken);
        return sample;
    }

    public void Dispose() => File.Delete(Path);
}
