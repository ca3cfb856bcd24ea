using System.Text;

namespace Skein.ParameterServer.Shards;

/// <summary>A shard's state on disk: whole or absent after a crash at any moment.</summary>
internal sealed class ShardCheckpoint(string directory, int shard)
{
    private const uint Magic = 0x534B5053; // SKPS
    private const int FormatVersion = 1;

    /// <summary>The file.</summary>
    public string Path { get; } = System.IO.Path.Combine(directory, $"shard-{shard}.ckpt");

    /// <summary>The number of updates in the newest checkpoint.</summary>
    public long LastVersion { get; private set; }

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

    private string Write(ShardModel model)
    {
        Directory.CreateDirectory(directory);
        string temporary = $"{Path}.tmp";
        using (var file = new FileStream(temporary, FileMode.Create, FileAccess.Write, FileShare.None, 1 << 20))
        {
            using var writer = new BinaryWriter(file, Encoding.UTF8, leaveOpen: true);
            byte[] layout = model.Layout.ToBytes();
            writer.Write(Magic);
            writer.Write(FormatVersion);
            writer.Write(layout.Length);
            writer.Write(layout);
            model.Save(writer);
            writer.Write(Magic);
            writer.Flush();
            file.Flush(flushToDisk: true);
        }

        File.Move(temporary, Path, overwrite: true);
        LastVersion = model.Version;
        return System.IO.Path.GetFullPath(Path);
    }

    /// <exception cref="ParameterServerException">There is no such file, or it cannot be read.</exception>
    /// <exception cref="InvalidDataException">The file is damaged, or of another model.</exception>
    public void Load(ShardModel model)
    {
        try
        {
            using var reader = new BinaryReader(new FileStream(Path, FileMode.Open, FileAccess.Read, FileShare.Read, 1 << 20), Encoding.UTF8);
            if (reader.ReadUInt32() != Magic || reader.ReadInt32() is var version && version != FormatVersion) throw Damaged("it is none of this version of Skein");
            int length = reader.ReadInt32();
            if (length is < 0 or > 1 << 24) throw Damaged($"its layout claims {length} bytes");
            if (ShardLayout.Parse(reader.ReadBytes(length)).Difference(model.Layout) is { } difference)
            {
                throw new InvalidDataException($"the checkpoint {Path} is of another model: {difference}");
            }

            model.Load(reader);
            if (reader.ReadUInt32() != Magic) throw Damaged("its end is missing");
            LastVersion = model.Version;
        }
        catch (EndOfStreamException error)
        {
            throw new InvalidDataException($"the checkpoint {Path} is damaged: it ends too early", error);
        }
        catch (Exception error) when (error is FileNotFoundException or DirectoryNotFoundException)
        {
            throw new ParameterServerException($"there is no checkpoint {Path} to resume from: give the directory of an earlier run, or start without --resume", error);
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            throw new ParameterServerException($"cannot read the checkpoint {Path}: {error.Message}", error);
        }
    }

    private InvalidDataException Damaged(string reason) => new($"the checkpoint {Path} is damaged: {reason}");
}
