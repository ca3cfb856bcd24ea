using System.Security.Cryptography;
using System.Text;

namespace Skein.ParameterServer.Shards;

/// <summary>
/// A shard's state on disk: the newest two checkpoints, each whole or absent after a crash at any moment, so that shards which were
/// interrupted between each other's have one of the same step. A damaged one is not loaded.
/// </summary>
internal sealed class ShardCheckpoint(string directory, int shard)
{
    private const uint Magic = 0x534B5053; // SKPS
    private const int FormatVersion = 2;

    private bool continues;
    private bool newestCounts = true;

    /// <summary>The newest one's file.</summary>
    public string Path { get; } = System.IO.Path.Combine(directory, $"shard-{shard}.ckpt");

    /// <summary>The number of updates in the newest checkpoint.</summary>
    public long LastVersion { get; private set; }

    /// <summary>The number of updates in the checkpoint that was loaded.</summary>
    public long Restored { get; private set; }

    private string Previous { get; } = System.IO.Path.Combine(directory, $"shard-{shard}.previous.ckpt");

    /// <summary>The files that there are belong to this run, as they do for a backup that takes over.</summary>
    public void Continue() => continues = true;

    /// <returns>The absolute path.</returns>
    /// <exception cref="ParameterServerException">It cannot be written.</exception>
    public string Save(ShardModel model)
    {
        try
        {
            return Write(model);
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            throw new ParameterServerException($"cannot write the checkpoint {Path}: {error.Message}", error);
        }
    }

    /// <summary>The numbers of updates in the checkpoints that there are, the newest first; at least one.</summary>
    /// <exception cref="ParameterServerException">There is none, or one cannot be read.</exception>
    /// <exception cref="InvalidDataException">One is damaged.</exception>
    public long[] Versions() => Reading(() =>
    {
        IEnumerable<string> files = new[] { Path, Previous }.Where(File.Exists);
        long[] versions = [.. files.Select(static file => Read(file, static (_, version) => version)).Distinct()];
        return versions.Length > 0
            ? versions
            : throw new ParameterServerException(
                $"there is no checkpoint {Path} to resume from: give the directory of an earlier run, or start without --resume");
    });

    /// <summary>Loads the checkpoint of <paramref name="version"/> updates.</summary>
    /// <exception cref="ParameterServerException">There is none, or it cannot be read.</exception>
    /// <exception cref="InvalidDataException">It is damaged, or of another model.</exception>
    public void Load(ShardModel model, long version) => Reading(() =>
    {
        string file = new[] { Path, Previous }.FirstOrDefault(file => File.Exists(file) && Read(file, (_, saved) => saved == version))
            ?? throw new ParameterServerException($"there is no checkpoint of {version} updates in {directory} for server shard {shard}");
        CheckDigest(file);
        (continues, newestCounts) = (true, file == Path);
        return Read(file, (reader, _) =>
        {
            model.Load(reader);
            return LastVersion = Restored = model.Version;
        }, model.Layout);
    });

    private string Write(ShardModel model)
    {
        Directory.CreateDirectory(directory);
        string temporary = $"{Path}.tmp";
        using (var file = new FileStream(temporary, FileMode.Create, FileAccess.ReadWrite, FileShare.None, 1 << 20))
        {
            using var writer = new BinaryWriter(file, Encoding.UTF8, leaveOpen: true);
            byte[] layout = model.Layout.ToBytes();
            writer.Write(Magic);
            writer.Write(FormatVersion);
            writer.Write(layout.Length);
            writer.Write(layout);
            model.Save(writer);
            writer.Flush();
            file.Position = 0;
            file.Write(SHA256.HashData(file));
            file.Flush(flushToDisk: true);
        }

        // What an earlier run left, or was newer than what this one began with, is no checkpoint of this run.
        if (!continues) File.Delete(Previous);
        else if (newestCounts && File.Exists(Path)) File.Move(Path, Previous, overwrite: true);
        File.Move(temporary, Path, overwrite: true);
        (continues, newestCounts) = (true, true);
        LastVersion = model.Version;
        return System.IO.Path.GetFullPath(Path);
    }

    /// <summary>Hands <paramref name="take"/> the reader before the model's state, and the number of updates in it.</summary>
    private static T Read<T>(string file, Func<BinaryReader, long, T> take, ShardLayout? expected = null)
    {
        using var reader = new BinaryReader(new FileStream(file, FileMode.Open, FileAccess.Read, FileShare.Read, 1 << 20), Encoding.UTF8);
        if (reader.ReadUInt32() != Magic || reader.ReadInt32() != FormatVersion) throw Damaged(file, "it is none of this version of Skein");
        int length = reader.ReadInt32();
        if (length is < 0 or > 1 << 24) throw Damaged(file, $"its layout claims {length} bytes");
        byte[] layout = reader.ReadBytes(length);
        if (expected is not null && ShardLayout.Parse(layout).Difference(expected) is { } difference)
        {
            throw new InvalidDataException($"the checkpoint {file} is of another model: {difference}");
        }

        long state = reader.BaseStream.Position, version = reader.ReadInt64();
        reader.BaseStream.Position = state;
        return take(reader, version);
    }

    private static void CheckDigest(string file)
    {
        using var stream = new FileStream(file, FileMode.Open, FileAccess.Read, FileShare.Read, 1 << 20);
        if (stream.Length < SHA256.HashSizeInBytes) throw new EndOfStreamException();
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        var buffer = new byte[1 << 20];
        for (long left = stream.Length - SHA256.HashSizeInBytes; left > 0;)
        {
            int count = stream.Read(buffer, 0, (int)Math.Min(left, buffer.Length));
            if (count == 0) throw new EndOfStreamException();
            hash.AppendData(buffer, 0, count);
            left -= count;
        }

        var told = new byte[SHA256.HashSizeInBytes];
        stream.ReadExactly(told);
        if (hash.GetHashAndReset().AsSpan().SequenceEqual(told)) return;
        throw Damaged(file, "its contents are not what was written (another checksum)");
    }

    private T Reading<T>(Func<T> read)
    {
        try
        {
            return read();
        }
        catch (EndOfStreamException error)
        {
            throw new InvalidDataException($"the checkpoint {Path} is damaged: it ends too early", error);
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            throw new ParameterServerException($"cannot read the checkpoint {Path}: {error.Message}", error);
        }
    }

    private static InvalidDataException Damaged(string file, string reason) =>
        new($"the checkpoint {file} is damaged: {reason}; give the directory of another run, or start without --resume");
}
