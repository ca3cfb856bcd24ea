using System.CommandLine;
using Skein.Collectives;
using Skein.Training.Meshes;

namespace Skein.Cli.Doctor;

/// <summary>A device mesh, tried with all its ranks in this process.</summary>
internal static class MeshChecks
{
    private const string Name = "mesh";

    // Each is a thread that waits for the others.
    private const int MostRanks = 64;

    public static readonly Option<string?> Mesh = new("--mesh") { HelpName = "M", Description = "Also try a device mesh, for example dp=2,pp=2, and say which rank is where" };

    /// <exception cref="UsageException">It is none, or larger than can be tried here.</exception>
    public static MeshShape Read(string text)
    {
        try
        {
            var shape = MeshShape.Parse(text);
            return shape.WorldSize <= MostRanks ? shape : throw new UsageException($"{Mesh.Name} {shape} has {shape.WorldSize} ranks, but at most {MostRanks} are tried in one process");
        }
        catch (Exception error) when (error is FormatException or OverflowException)
        {
            throw new UsageException(error.Message);
        }
    }

    public static Finding Try(MeshShape shape)
    {
        try
        {
            string[] grids = Task.Run(() => AddUpAsync(shape)).GetAwaiter().GetResult();
            return Finding.Ok(Name, grids[0]);
        }
        catch (Exception error) when (error is SkeinException or IOException or InvalidOperationException)
        {
            return Finding.Failed(Name, $"the ranks of {shape} could not exchange data: {error.Message}", "see the transports above");
        }
    }

    private static async Task<string[]> AddUpAsync(MeshShape shape)
    {
        var groups = await ProcessGroup.CreateInProcessAsync(shape.WorldSize, new ProcessGroupOptions { Timeout = TimeSpan.FromSeconds(30) });
        return await Task.WhenAll(groups.Select(group => Task.Run(async () =>
        {
            await using ProcessGroup world = group;
            await using DeviceMesh mesh = await DeviceMesh.CreateAsync(world, shape);
            foreach ((string dimension, int size) in shape.Dimensions)
            {
                int[] sum = [mesh[dimension].Rank];
                mesh[dimension].AllReduce<int>(sum);
                if (sum[0] != size * (size - 1) / 2) throw new InvalidOperationException($"the ranks along {dimension} added up to {sum[0]}");
            }

            return mesh.ToString();
        })));
    }
}
