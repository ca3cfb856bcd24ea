using System.Text;
using Skein.Collectives;

namespace Skein.Training.Meshes;

/// <summary>
/// The ranks of a process group as a grid with named dimensions; for each dimension this rank has a subgroup, of the ranks
/// that differ from it in that coordinate only, or the group itself where those are all ranks. Not thread-safe.
/// </summary>
public sealed class DeviceMesh : IAsyncDisposable
{
    private readonly ProcessGroup world;
    private readonly ProcessGroup[] groups;

    private DeviceMesh(ProcessGroup world, MeshShape shape, ProcessGroup[] groups)
    {
        this.world = world;
        Shape = shape;
        this.groups = groups;
    }

    /// <summary>Names and sizes of the dimensions.</summary>
    public MeshShape Shape { get; }

    /// <summary>The subgroup along a dimension; this rank's coordinate is its rank there.</summary>
    /// <exception cref="ArgumentException">There is no such dimension.</exception>
    public ProcessGroup this[string name] => groups[Shape.IndexOf(name)];

    /// <summary>The bytes that this rank has sent in the mesh and in the group that it is made of.</summary>
    public long BytesSent => groups.Append(world).Distinct().Sum(static group => group.BytesSent);

    /// <summary>Makes the subgroups. Collective over <paramref name="world"/>, which stays the caller's to dispose, after this.</summary>
    /// <exception cref="ArgumentException">The dimensions do not multiply to the world size.</exception>
    public static async Task<DeviceMesh> CreateAsync(ProcessGroup world, MeshShape shape)
    {
        ArgumentNullException.ThrowIfNull(world);
        ArgumentNullException.ThrowIfNull(shape);
        shape.Validate(world.WorldSize);
        int[] coordinates = shape.CoordinatesOf(world.Rank);
        var groups = new List<ProcessGroup>();
        try
        {
            int stride = shape.WorldSize;
            for (int i = 0; i < coordinates.Length; i++)
            {
                stride /= shape.Dimensions[i].Size;
                // Ranks with the same color differ in this coordinate only.
                groups.Add(shape.Dimensions[i].Size == world.WorldSize ? world : (await world.SplitAsync(world.Rank - (coordinates[i] * stride), coordinates[i]).ConfigureAwait(false))!);
            }

            return new DeviceMesh(world, shape, [.. groups]);
        }
        catch
        {
            await LeaveAsync(world, groups).ConfigureAwait(false);
            throw;
        }
    }

    /// <summary>The grid for people: one line for each rank.</summary>
    public override string ToString()
    {
        var text = new StringBuilder($"mesh {Shape}");
        for (int rank = 0; rank < world.WorldSize; rank++)
        {
            int[] coordinates = Shape.CoordinatesOf(rank);
            text.Append($"\n  rank {rank}: {string.Join(", ", Shape.Dimensions.Select((dimension, i) => $"{dimension.Name} {coordinates[i]}"))}");
        }

        return text.ToString();
    }

    /// <summary>Leaves the subgroups.</summary>
    public ValueTask DisposeAsync() => LeaveAsync(world, groups);

    private static async ValueTask LeaveAsync(ProcessGroup world, IEnumerable<ProcessGroup> groups)
    {
        foreach (ProcessGroup group in groups.Where(group => group != world)) await group.DisposeAsync().ConfigureAwait(false);
    }
}
