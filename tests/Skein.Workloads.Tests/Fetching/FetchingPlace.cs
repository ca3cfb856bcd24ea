using System.Formats.Tar;
using System.IO.Compression;
using System.Security.Cryptography;
using System.Text;
using Skein.Workloads.Fetching;

namespace Skein.Workloads.Tests.Fetching;

/// <summary>
/// A machine's view of two published files: a cache, a folder for packages, a publisher's server, and programs in place of
/// Debian's. The environment is the process's, and as it was afterwards.
/// </summary>
internal sealed class FetchingPlace : IDisposable
{
    public const string Package = "dataset-numbers";

    private readonly string root = Directory.CreateTempSubdirectory("skein-test-").FullName;
    private readonly Dictionary<string, string?> before = [];
    private readonly Dictionary<string, byte[]> served = [];

    public FetchingPlace()
    {
        Content = new Dictionary<string, byte[]>
        {
            ["a.gz"] = Compress(Noise(seed: 1, 3000), CompressionLevel.Optimal),
            ["b.gz"] = Compress(Noise(seed: 2, 700), CompressionLevel.Optimal),
        };
        foreach ((string name, byte[] content) in Content) served[name] = content;
        Server = new FileServer(served);
        Directory.CreateDirectory(Programs);
        Set("SKEIN_DATA_DIR", null);
        Set("XDG_CACHE_HOME", Path.Combine(root, "cache"));
        Set("TMPDIR", root);
        Set("PATH", Programs);
        Files = new PublishedFiles
        {
            Name = "Numbers",
            FolderName = "numbers",
            Package = Package,
            PackageFolder = Path.Combine(root, "packages", "numbers"),
            PublishedAt = Server.Address,
            Contents = new Dictionary<string, string>
            {
                ["a.gz"] = Convert.ToHexStringLower(SHA256.HashData(Noise(seed: 1, 3000))),
                ["b.gz"] = Convert.ToHexStringLower(SHA256.HashData(Noise(seed: 2, 700))),
            },
        };
    }

    public PublishedFiles Files { get; }

    public FileServer Server { get; }

    /// <summary>The files as the publisher compresses them.</summary>
    public IReadOnlyDictionary<string, byte[]> Content { get; }

    public string Cache => Path.Combine(root, "cache", "skein", "numbers");

    private string Programs => Path.Combine(root, "programs");

    public void Dispose()
    {
        Server.Dispose();
        foreach ((string name, string? value) in before) Environment.SetEnvironmentVariable(name, value);
        Directory.Delete(root, recursive: true);
    }

    public void Set(string variable, string? value)
    {
        before.TryAdd(variable, Environment.GetEnvironmentVariable(variable));
        Environment.SetEnvironmentVariable(variable, value);
    }

    /// <summary>Serves something else than the publisher's.</summary>
    public void Serve(string name, byte[] content) => served[name] = content;

    public string Folder(string name, params ReadOnlySpan<string> files)
    {
        string folder = Directory.CreateDirectory(Path.Combine(root, name)).FullName;
        foreach (string file in files) File.WriteAllBytes(Path.Combine(folder, file), Content[file]);
        return folder;
    }

    /// <summary>
    /// Brings apt-get as a script for the shell, in which $address is the package's and $fresh says whether the lists are the caller's own.
    /// </summary>
    public void HaveDebian(string locate, string update = "exit 0")
    {
        // A real package has the archive of its files inside; these are it.
        Program("dpkg-deb", """[ "$1" = --fsys-tarfile ] && exec cat "$2" """);
        Program(
            "apt-get",
            $"""
            address="'{Server.Address}{Package}.deb' {Package}.deb 1 SHA256:0"
            if grep -q 'Dir::State::lists' "$2"; then fresh=yes; else fresh=no; fi
            case "$*" in
            *update*) {update} ;;
            *--print-uris*{Package}*) {locate} ;;
            *) echo "E: $* was not expected" >&2; exit 100 ;;
            esac
            """);
    }

    /// <summary>A package in which both files are, compressed otherwise than by the publisher.</summary>
    public byte[] PackageOf(byte[] b)
    {
        using var archive = new MemoryStream();
        using (var tar = new TarWriter(archive, leaveOpen: true))
        {
            Write("a.gz", Noise(seed: 1, 3000));
            Write("b.gz", b);

            void Write(string name, byte[] content) => tar.WriteEntry(
                new UstarTarEntry(TarEntryType.RegularFile, $".{Files.PackageFolder}/{name}")
                {
                    DataStream = new MemoryStream(Compress(content, CompressionLevel.NoCompression)),
                });
        }

        return archive.ToArray();
    }

    public byte[] GoodPackage() => PackageOf(Noise(seed: 2, 700));

    /// <summary>The files of the cache hold what was published, and nothing is beside them.</summary>
    public void AssertFetched()
    {
        Assert.Equal([".lock", "a.gz", "b.gz"], Directory.GetFileSystemEntries(Cache).Select(Path.GetFileName).Order());
        Assert.Equal(Noise(seed: 1, 3000), Decompress(File.ReadAllBytes(Path.Combine(Cache, "a.gz"))));
        Assert.Equal(Noise(seed: 2, 700), Decompress(File.ReadAllBytes(Path.Combine(Cache, "b.gz"))));
        Assert.Equal(Cache, Files.Find());
    }

    public static byte[] Compress(byte[] content, CompressionLevel level)
    {
        var result = new MemoryStream();
        using (var gzip = new GZipStream(result, level)) gzip.Write(content);
        return result.ToArray();
    }

    private static byte[] Decompress(byte[] content)
    {
        var result = new MemoryStream();
        using (var gzip = new GZipStream(new MemoryStream(content), CompressionMode.Decompress)) gzip.CopyTo(result);
        return result.ToArray();
    }

    private static byte[] Noise(int seed, int length)
    {
        byte[] noise = new byte[length];
        new Random(seed).NextBytes(noise);
        return noise;
    }

    private void Program(string name, string script)
    {
        string path = Path.Combine(Programs, name);
        File.WriteAllText(path, $"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n", Encoding.ASCII);
        if (!OperatingSystem.IsWindows()) File.SetUnixFileMode(path, UnixFileMode.UserRead | UnixFileMode.UserExecute);
    }
}

/// <summary>What was reported, and a task that ends with the report that something waits for.</summary>
internal sealed class Reports : IProgress<FetchProgress>
{
    private readonly TaskCompletionSource waits = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly List<FetchProgress> all = [];

    public Task Waits => waits.Task;

    public IReadOnlyList<FetchProgress> All => all;

    public void Report(FetchProgress value)
    {
        lock (all) all.Add(value);
        if (value.What.StartsWith("waiting for another process", StringComparison.Ordinal)) waits.TrySetResult();
    }
}
