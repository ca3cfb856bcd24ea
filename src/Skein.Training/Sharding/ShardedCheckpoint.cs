using System.Text;
using System.Text.Json;
using Skein.Collectives;
using TorchSharp;
using static TorchSharp.torch;

namespace Skein.Training.Sharding;

/// <summary>
/// A checkpoint of which each rank writes its own part, at the speed of all ranks' disks: shards of the parameters in single
/// precision, the model's buffers, and the optimizer's state. It is complete once rank 0 has written the index, after all parts.
/// </summary>
internal static class ShardedCheckpoint
{
    private const string IndexFile = "checkpoint.json";
    private const ulong Magic = 0x_32_44_52_48_53_4E_4B_53;

    private sealed record Index(int WorldSize, IReadOnlyList<Unit> Units, IReadOnlyList<string> Buffers);

    private sealed record Unit(string Name, long Length, IReadOnlyList<string> Parameters);

    /// <summary>Collective.</summary>
    public static void Save(
        string directory, ProcessGroup group, IReadOnlyList<ShardedUnit> units, IReadOnlyList<(string Name, Tensor Value)> buffers, optim.Optimizer optimizer)
    {
        Directory.CreateDirectory(directory);
        string index = Path.Combine(directory, IndexFile);
        // What is overwritten counts as incomplete from here on.
        if (group.Rank == 0) File.Delete(index);
        group.Barrier();
        WriteWhole(PartFile(directory, group), file =>
        {
            using var writer = new BinaryWriter(file, Encoding.UTF8, leaveOpen: true);
            writer.Write(Magic);
            foreach (ShardedUnit unit in units)
            {
                using Tensor shard = unit.Shard.detach().cpu();
                writer.Write(shard.bytes);
            }

            foreach ((_, Tensor buffer) in buffers)
            {
                using DisposeScope scope = NewDisposeScope();
                writer.Write(buffer.detach().cpu().contiguous().bytes);
            }

            WithState(optimizer).save_state_dict(writer);
        });
        group.Barrier();
        if (group.Rank == 0) WriteWhole(index, file => JsonSerializer.Serialize(file, IndexOf(group, units, buffers)));
        group.Barrier();
    }

    /// <summary>Collective.</summary>
    /// <exception cref="InvalidDataException">It is incomplete, damaged, or of another model or number of ranks.</exception>
    public static void Load(
        string directory, ProcessGroup group, IReadOnlyList<ShardedUnit> units, IReadOnlyList<(string Name, Tensor Value)> buffers, optim.Optimizer optimizer)
    {
        Check(directory, IndexOf(group, units, buffers));
        string path = PartFile(directory, group);
        using FileStream file = File.OpenRead(path);
        using var reader = new BinaryReader(file);
        long values = units.Sum(static unit => unit.ShardLength) * sizeof(float);
        values += buffers.Sum(static buffer => buffer.Value.numel() * buffer.Value.ElementSize);
        if (file.Length < sizeof(ulong) + values || reader.ReadUInt64() != Magic) throw new InvalidDataException($"{path} is no part of a checkpoint, or cut short");
        using var noGradient = no_grad();
        foreach (ShardedUnit unit in units)
        {
            using Tensor shard = empty(unit.ShardLength, float32);
            file.ReadExactly(shard.bytes);
            unit.Shard.copy_(shard);
        }

        foreach ((_, Tensor buffer) in buffers)
        {
            using Tensor value = empty(buffer.shape, buffer.dtype);
            file.ReadExactly(value.bytes);
            buffer.copy_(value);
        }

        WithState(optimizer).load_state_dict(reader);
    }

    private static void Check(string directory, Index expected)
    {
        string path = Path.Combine(directory, IndexFile);
        if (!File.Exists(path)) throw new InvalidDataException($"there is no complete checkpoint in {directory}: {IndexFile} is missing, which is written last");
        Index found = JsonSerializer.Deserialize<Index>(File.ReadAllBytes(path)) ?? throw new InvalidDataException($"{path} is empty");
        if (found.WorldSize != expected.WorldSize) throw new InvalidDataException($"the checkpoint in {directory} was written by {found.WorldSize} ranks, but there are {expected.WorldSize}: start as many, or save an unsharded one from FullParameters");
        string Describe(Unit unit) => $"{unit.Name}: {unit.Length} elements of {string.Join(", ", unit.Parameters)}";
        string? different = found.Units.Select(Describe).Except(expected.Units.Select(Describe)).FirstOrDefault();
        different ??= found.Buffers.Except(expected.Buffers).Concat(expected.Buffers.Except(found.Buffers)).FirstOrDefault();
        if (different is not null || found.Units.Count != expected.Units.Count) throw new InvalidDataException($"the checkpoint in {directory} is of another model or division: it has {different ?? $"{found.Units.Count} units"}");
    }

    private static TorchSharp.Modules.OptimizerHelper WithState(optim.Optimizer optimizer) => optimizer as TorchSharp.Modules.OptimizerHelper
        ?? throw new ArgumentException($"a {optimizer.GetType().Name} has no state that can be saved: use one of TorchSharp's optimizers, or one derived from them", nameof(optimizer));

    private static Index IndexOf(ProcessGroup group, IReadOnlyList<ShardedUnit> units, IReadOnlyList<(string Name, Tensor Value)> buffers) =>
        new(
            group.WorldSize,
            [.. units.Select(static unit => new Unit(unit.Name, unit.Length, [.. unit.Parameters.Select(static entry => entry.Name)]))],
            [.. buffers.Select(static buffer => $"buffer {buffer.Name}: {buffer.Value.dtype}[{string.Join(", ", buffer.Value.shape)}]")]);

    private static string PartFile(string directory, ProcessGroup group) => Path.Combine(directory, $"part-{group.Rank}-of-{group.WorldSize}.bin");

    private static void WriteWhole(string path, Action<Stream> write)
    {
        string temporary = $"{path}.tmp";
        using (var file = new FileStream(temporary, FileMode.Create, FileAccess.Write, FileShare.None, 1 << 20))
        {
            write(file);
            file.Flush(flushToDisk: true);
        }

        File.Move(temporary, path, overwrite: true);
    }
}
