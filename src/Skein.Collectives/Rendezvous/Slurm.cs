using System.Globalization;

namespace Skein.Collectives.Rendezvous;

/// <summary>A task's place in a Slurm job step, from the variables that srun sets.</summary>
internal static class Slurm
{
    /// <summary>Whether srun started this process; false in a batch script, which has a SLURM_PROCID of its own.</summary>
    public static bool IsTask(Func<string, string?> read) =>
        read("SLURM_PROCID") is not null
        && (read("SLURM_STEP_NUM_TASKS") is not null || (read("SLURM_NTASKS") is not null && read("ENVIRONMENT") != "BATCH"));

    public static ProcessGroupOptions Read(Func<string, string?> read)
    {
        var sizeName = read("SLURM_STEP_NUM_TASKS") is not null ? "SLURM_STEP_NUM_TASKS" : "SLURM_NTASKS";
        var size = LauncherEnvironment.Required(read, sizeName, 1, int.MaxValue, "SLURM_PROCID is set");
        var rank = LauncherEnvironment.Required(read, "SLURM_PROCID", 0, size - 1, $"{sizeName} is set");
        var (localRank, localSize) = Local(read, rank, size);
        return new ProcessGroupOptions
        {
            Rank = rank,
            WorldSize = size,
            LocalRank = localRank,
            LocalWorldSize = localSize,
            MasterAddress = FirstHost(read("SLURM_STEP_NODELIST") ?? read("SLURM_JOB_NODELIST")) ?? "127.0.0.1",
            MasterPort = Port(read),
        };
    }

    /// <summary>The first name of a host list such as <c>gpu[003-006,9]-ib,login1</c>; null for an empty one.</summary>
    internal static string? FirstHost(string? list)
    {
        if (list is null) return null;
        var open = list.IndexOf('[', StringComparison.Ordinal);
        var comma = list.IndexOf(',', StringComparison.Ordinal);
        if (open < 0 || (comma >= 0 && comma < open)) return comma < 0 ? list : list[..comma];
        var close = list.IndexOf(']', open);
        if (close < 0) throw new RendezvousException($"SLURM_JOB_NODELIST is '{list}': a bracket is not closed");
        var first = list[(open + 1)..close].Split(',', '-')[0];
        var end = list.IndexOf(',', close);
        return list[..open] + first + list[(close + 1)..(end < 0 ? list.Length : end)];
    }

    /// <summary>The tasks on node <paramref name="node"/> of a list such as <c>2(x3),1</c>; null when it does not say.</summary>
    internal static int? TasksOnNode(string? list, int node)
    {
        var passed = 0;
        foreach (var part in (list ?? "").Split(',', StringSplitOptions.RemoveEmptyEntries))
        {
            var fields = part.TrimEnd(')').Split("(x");
            if (!int.TryParse(fields[0], NumberStyles.None, CultureInfo.InvariantCulture, out var tasks)) return null;
            var nodes = 1;
            if (fields.Length > 1 && !int.TryParse(fields[1], NumberStyles.None, CultureInfo.InvariantCulture, out nodes)) return null;
            passed += nodes;
            if (node < passed) return tasks;
        }

        return null;
    }

    private static (int Rank, int Size) Local(Func<string, string?> read, int rank, int size)
    {
        if (LauncherEnvironment.Optional(read, "SLURM_LOCALID", 0, size - 1) is not { } localRank) return (0, 1);
        var node = LauncherEnvironment.Optional(read, "SLURM_NODEID", 0, int.MaxValue) ?? 0;
        if (TasksOnNode(read("SLURM_STEP_TASKS_PER_NODE") ?? read("SLURM_TASKS_PER_NODE"), node) is { } tasks && tasks > localRank)
        {
            return (localRank, Math.Min(tasks, size));
        }

        // Without the layout only a job on one node is certain.
        return localRank == rank && read("SLURM_NNODES") is "1" or null ? (localRank, size) : (localRank, localRank + 1);
    }

    // Every task must arrive at the same port without speaking to the others, below the range that the OS hands out.
    private static int Port(Func<string, string?> read)
    {
        return 20_000 + (int)(((Number("SLURM_JOB_ID") * 31L) + Number("SLURM_STEP_ID")) % 12_000);

        uint Number(string name) =>
            uint.TryParse(read(name), NumberStyles.None, CultureInfo.InvariantCulture, out var value) ? value : 0;
    }
}
