using System.Globalization;
using System.Net;
using Skein.Collectives.Rendezvous;

namespace Skein.Hosting;

/// <summary>The environment of each rank.</summary>
internal static class WorkerEnvironment
{
    internal static Dictionary<string, string> Create(
        LaunchOptions options, int localRank, DnsEndPoint store, JobSecret secret, string jobId)
    {
        var environment = CreateForCompanion(options, secret, jobId);
        foreach (var (name, value) in new Dictionary<string, string>
        {
            ["RANK"] = Number((options.NodeRank * options.ProcessesPerNode) + localRank),
            ["WORLD_SIZE"] = Number(options.Nodes * options.ProcessesPerNode),
            ["LOCAL_RANK"] = Number(localRank),
            ["LOCAL_WORLD_SIZE"] = Number(options.ProcessesPerNode),
            ["MASTER_ADDR"] = store.Host,
            ["MASTER_PORT"] = Number(store.Port),
            ["SKEIN_LAUNCHER_STORE"] = "1",
        })
        {
            environment[name] = value;
        }

        return environment;
    }

    internal static Dictionary<string, string> CreateForCompanion(LaunchOptions options, JobSecret secret, string jobId)
    {
        var environment = new Dictionary<string, string>
        {
            ["SKEIN_JOB_SECRET"] = secret.ToHex(),
            ["SKEIN_JOB_ID"] = jobId,
        };
        if (options.RunDirectory is { } directory) environment["SKEIN_RUN_DIR"] = Path.GetFullPath(directory);

        foreach (var (name, value) in Defaults(options.ProcessesPerNode))
        {
            if (Environment.GetEnvironmentVariable(name) is null) environment[name] = value;
        }

        foreach (var (name, value) in options.Environment) environment[name] = value;
        return environment;
    }

    private static IEnumerable<(string Name, string Value)> Defaults(int processes)
    {
        // Ranks that each start a thread per core fight over the cores.
        yield return ("OMP_NUM_THREADS", Number(Math.Max(1, Environment.ProcessorCount / processes)));

        // Memory that glibc returns to the kernel after a tensor dies is faulted in again, page by page, for the next
        // one: ten times slower than the arithmetic on it. So keep it. LibTorch's huge pages gain nothing then, but their alignment
        // tears the heap: a third more memory for activations of some MiB each.
        yield return ("MALLOC_MMAP_MAX_", "0");
        yield return ("MALLOC_TRIM_THRESHOLD_", "4294967296");
        yield return ("MALLOC_TOP_PAD_", "67108864");
    }

    private static string Number(int value) => value.ToString(CultureInfo.InvariantCulture);
}
