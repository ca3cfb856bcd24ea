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
            JobId = read("SLURM_JOB_ID") is { } job ? $"slurm-{job}.{read("SLURM_STEP_ID") ?? "0"}" : "default",
            MasterAddress = localSize == size ? "127.0.0.1" : Master(read, rank),
            MasterAddressSetting = ListName(read),
            MasterPort = Port(read),
        };
    }

    /// <summary>The names of a host list such as <c>gpu[003-006,9]-ib,login1</c>, in its order.</summary>
    /// <exception cref="RendezvousException">It is malformed, or names more than 10,000 hosts.</exception>
    internal static IReadOnlyList<string> Hosts(string list)
    {
        List<string> hosts = [];
        foreach (var part in Parts(list)) Expand("", part);
        return hosts;

        // The first bracket of a name stands for several, each of which may have further brackets.
        void Expand(string start, string rest)
        {
            var open = rest.IndexOf('[', StringComparison.Ordinal);
            if (open < 0)
            {
                hosts.Add(hosts.Count < 10_000 ? start + rest : throw Malformed("more than 10,000 names"));
                return;
            }

            var close = rest.IndexOf(']', open);
            if (close < 0) throw Malformed("a bracket is not closed");
            foreach (var range in rest[(open + 1)..close].Split(','))
            {
                var ends = range.Split('-');
                if (!Number(ends[0], out var first) || !Number(ends[^1], out var last)) throw Malformed($"'{range}' is no range of numbers");
                for (var number = first; number <= last; number++)
                {
                    Expand(start + rest[..open] + number.ToString(CultureInfo.InvariantCulture).PadLeft(ends[0].Length, '0'), rest[(close + 1)..]);
                }
            }
        }

        RendezvousException Malformed(string what) => new($"the list of Slurm's nodes is '{list}': {what}; set MASTER_ADDR and MASTER_PORT");

        static bool Number(string text, out int value) => int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out value);
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

    private static string ListName(Func<string, string?> read) =>
        read("SLURM_STEP_NODELIST") is not null ? "SLURM_STEP_NODELIST" : "SLURM_JOB_NODELIST";

    // Rank 0 is on the first node, unless a file or an option places each task: then it may be on any, and the others ask all.
    private static string Master(Func<string, string?> read, int rank)
    {
        var nodes = read(ListName(read)) is { } list ? Hosts(list) : [];
        if (nodes.Count == 0) return "127.0.0.1";
        if (read("SLURM_DISTRIBUTION")?.Contains("arbitrary", StringComparison.Ordinal) != true) return nodes[0];
        return rank == 0 ? read("SLURMD_NODENAME") ?? nodes[0] : string.Join(',', nodes);
    }

    // Commas inside of brackets separate ranges.
    private static IEnumerable<string> Parts(string list)
    {
        int start = 0, depth = 0;
        for (var at = 0; at < list.Length; at++)
        {
            depth += list[at] switch { '[' => 1, ']' => -1, _ => 0 };
            if (list[at] != ',' || depth > 0) continue;
            yield return list[start..at];
            start = at + 1;
        }

        if (start < list.Length) yield return list[start..];
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
