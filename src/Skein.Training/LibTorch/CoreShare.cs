using System.Globalization;

namespace Skein.Training.LibTorch;

/// <summary>The number of threads that a rank may compute with, so that the ranks of a host do not fight over its cores.</summary>
internal static class CoreShare
{
    private const string StatusFile = "/proc/self/status";
    private const string GroupFile = "/sys/fs/cgroup/cpuset.cpus.effective";
    private const string MachineFile = "/sys/devices/system/cpu/online";

    /// <summary>This process's share where <paramref name="ranks"/> ranks run on this host, at least 1.</summary>
    internal static int Of(int ranks)
    {
        int allowed = Count(Line(StatusFile, "Cpus_allowed_list:")) ?? Environment.ProcessorCount;
        int all = Count(Line(GroupFile, "")) ?? Count(Line(MachineFile, "")) ?? allowed;
        return Of(ranks, allowed, all, Environment.ProcessorCount);
    }

    /// <param name="ranks">The ranks of this host, 1 or more.</param>
    /// <param name="allowed">The cores that this process may run on.</param>
    /// <param name="all">The cores that all of the job's processes on this host may run on together.</param>
    /// <param name="usable">The cores that this process can keep busy: <paramref name="allowed"/>, or less where a quota says so.</param>
    internal static int Of(int ranks, int allowed, int all, int usable)
    {
        // mpirun and srun bind a rank to cores of its own, or to a socket that it shares with its part of the ranks.
        double sharing = allowed < all ? Math.Max(1, Math.Round((double)ranks * allowed / all)) : ranks;
        double share = allowed / sharing;
        // A quota, unlike a binding, is that of all ranks together.
        if (usable < allowed) share = Math.Min(share, (double)usable / ranks);
        return Math.Max(1, (int)share);
    }

    /// <summary>The number of cores in a list such as <c>0-3,8</c>; null where it is none.</summary>
    internal static int? Count(string? list)
    {
        if (string.IsNullOrWhiteSpace(list)) return null;
        int count = 0;
        foreach (string range in list.Split(','))
        {
            string[] ends = range.Trim().Split('-');
            if (!int.TryParse(ends[0], NumberStyles.None, CultureInfo.InvariantCulture, out int first)
                || !int.TryParse(ends[^1], NumberStyles.None, CultureInfo.InvariantCulture, out int last) || last < first)
            {
                return null;
            }

            count += last - first + 1;
        }

        return count;
    }

    private static string? Line(string path, string key)
    {
        try
        {
            return File.ReadLines(path).FirstOrDefault(line => line.StartsWith(key, StringComparison.Ordinal))?[key.Length..];
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            return null;
        }
    }
}
