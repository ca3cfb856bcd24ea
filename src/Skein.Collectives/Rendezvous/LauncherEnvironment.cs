using System.Globalization;
using Microsoft.Extensions.Logging;

namespace Skein.Collectives.Rendezvous;

/// <summary>
/// Reads a process's place in its job from the environment that a launcher gave it: Skein's own and torchrun's
/// (<c>RANK</c>), Open MPI's (<c>OMPI_COMM_WORLD_RANK</c>), MPICH's (<c>PMI_RANK</c>) or Slurm's
/// (<c>SLURM_PROCID</c>), in this order.
/// </summary>
public static class LauncherEnvironment
{
    // A longer wait does not fit the timers of the runtime.
    private const double MaximumTimeoutSeconds = 4_000_000;

    /// <summary>Whether a launcher started this process as a rank of a job.</summary>
    /// <param name="variable">Looks up a variable; null for this process's environment.</param>
    public static bool HasRank(Func<string, string?>? variable = null) => FindLauncher(Wrap(variable)) is not Launcher.None;

    /// <summary>The options that the environment states; one rank alone when no launcher started this process.</summary>
    /// <param name="variable">Looks up a variable; null for this process's environment.</param>
    /// <exception cref="RendezvousException">A variable is missing, malformed or contradicts another; names it and its value.</exception>
    public static ProcessGroupOptions Read(Func<string, string?>? variable = null)
    {
        var read = Wrap(variable);
        var options = FindLauncher(read) switch
        {
            Launcher.Torch => Torch(read),
            Launcher.OpenMpi => Named(read, "PMIX_NAMESPACE", Place(
                read, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE")),
            Launcher.Mpich => Place(read, "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
            Launcher.Slurm => Slurm.Read(read),
            _ => Alone(read),
        };
        return WithJob(options, read);
    }

    private enum Launcher { None, Torch, OpenMpi, Mpich, Slurm }

    private static Func<string, string?> Wrap(Func<string, string?>? variable)
    {
        variable ??= Environment.GetEnvironmentVariable;
        return name => variable(name) is { Length: > 0 } value ? value : null;
    }

    private static Launcher FindLauncher(Func<string, string?> read)
    {
        if (read("RANK") is not null) return Launcher.Torch;
        if (read("OMPI_COMM_WORLD_RANK") is not null) return Launcher.OpenMpi;

        // MPICH's process manager is itself started by srun inside an allocation, so its own variables come first;
        // under srun's PMI plug-in they lack the local rank, which Slurm's have.
        var slurm = Slurm.IsTask(read);
        if (read("PMI_RANK") is not null && (read("MPI_LOCALRANKID") is not null || !slurm)) return Launcher.Mpich;
        return slurm ? Launcher.Slurm : Launcher.None;
    }

    private static ProcessGroupOptions Torch(Func<string, string?> read)
    {
        var options = Named(read, "TORCHELASTIC_RUN_ID", Place(read, "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"));
        var loopback = read("MASTER_ADDR") is null or "127.0.0.1" or "localhost" or "::1";
        return loopback && read("LOCAL_RANK") is null && read("LOCAL_WORLD_SIZE") is null
            ? options with { LocalRank = options.Rank, LocalWorldSize = options.WorldSize }
            : options with { Agent = Agent(read) };
    }

    private static string? Agent(Func<string, string?> read) => bool.TryParse(read("TORCHELASTIC_USE_AGENT_STORE"), out var uses) && uses
        ? $"torchrun {read("MASTER_PORT")} {read("TORCHELASTIC_RUN_ID")} {read("TORCHELASTIC_RESTART_COUNT")}"
        : null;

    // What keeps jobs apart that share a Redis server. It becomes part of the names of keys and files.
    internal static ProcessGroupOptions Named(Func<string, string?> read, string variable, ProcessGroupOptions options) =>
        read(variable) is { } id and not "none" ? options with { JobId = string.Concat(id.Take(64).Select(Safe)) } : options;

    private static char Safe(char letter) => char.IsAsciiLetterOrDigit(letter) || letter is '.' or '-' ? letter : '_';

    private static ProcessGroupOptions Alone(Func<string, string?> read) =>
        read("WORLD_SIZE") is { } size and not "1"
            ? throw new RendezvousException(
                $"WORLD_SIZE is '{size}', but RANK is not set: set both, or start the program with: skein launch -n {size} -- PROGRAM")
            : new ProcessGroupOptions();

    private static ProcessGroupOptions Place(
        Func<string, string?> read, string rankName, string sizeName, string localRankName, string localSizeName)
    {
        var size = Required(read, sizeName, 1, int.MaxValue, $"{rankName} is set");
        var rank = Required(read, rankName, 0, int.MaxValue, $"{sizeName} is set");
        var localSize = Optional(read, localSizeName, 1, int.MaxValue) ?? 1;
        var localRank = Optional(read, localRankName, 0, int.MaxValue) ?? 0;
        Below(rankName, rank, sizeName, size);
        if (read(localSizeName) is not null) Below(localRankName, localRank, localSizeName, localSize);
        if (localSize > size)
        {
            throw new RendezvousException($"{localSizeName} is {localSize}, more than {sizeName}, which is {size}");
        }

        return new ProcessGroupOptions
        {
            Rank = rank,
            WorldSize = size,
            LocalRank = localRank,
            LocalWorldSize = Math.Max(localSize, localRank + 1),
        };
    }

    private static ProcessGroupOptions WithJob(ProcessGroupOptions options, Func<string, string?> read)
    {
        try
        {
            return options with
            {
                MasterAddress = read("MASTER_ADDR") ?? options.MasterAddress,
                // Torchrun's own store holds its port; on several hosts all ranks know the next one without a word.
                MasterPort = Optional(read, "MASTER_PORT", 1, 65535) is not { } port ? options.MasterPort
                    : options.Agent is null || port == 65535 ? port : port + 1,
                StoreHostedByLauncher = Optional(read, "SKEIN_LAUNCHER_STORE", 0, 1) == 1,
                RedisStore = read("SKEIN_REDIS_STORE"),
                JobId = read("SKEIN_JOB_ID") ?? options.JobId,
                Secret = JobSecret.FromEnvironment(read),
                Encryption = ReadEncryption(read),
                Timeout = ReadTimeout(read) ?? options.Timeout,
                Transport = read("SKEIN_TRANSPORT") is { } transport ? OptionNames.ParseTransport(transport) : options.Transport,
                Algorithm = read("SKEIN_ALGORITHM") is { } algorithm ? OptionNames.ParseAlgorithm(algorithm) : options.Algorithm,
                Emulation = NetworkEmulation.Parse(read("SKEIN_EMULATE_BANDWIDTH"), read("SKEIN_EMULATE_LATENCY")),
                FlightRecorderDirectory = read("SKEIN_RUN_DIR"),
                Logger = new StandardErrorLogger(ReadLogLevel(read)),
            };
        }
        catch (FormatException error)
        {
            throw new RendezvousException($"in the environment: {error.Message}", error);
        }
    }

    private static LogLevel ReadLogLevel(Func<string, string?> read)
    {
        if (read("SKEIN_LOG_LEVEL") is not { } text) return LogLevel.Warning;
        return Enum.TryParse(text, ignoreCase: true, out LogLevel level) && Enum.IsDefined(level)
            ? level
            : throw new RendezvousException(
                $"SKEIN_LOG_LEVEL is '{text}': give one of {string.Join(", ", Enum.GetNames<LogLevel>()).ToLowerInvariant()}");
    }

    /// <summary>The timeout in <c>SKEIN_TIMEOUT_SECONDS</c>; null when it is not set.</summary>
    /// <param name="variable">Looks up a variable; null for this process's environment.</param>
    /// <exception cref="RendezvousException">It is not a number of seconds in range.</exception>
    public static TimeSpan? ReadTimeout(Func<string, string?>? variable = null)
    {
        if (Wrap(variable)("SKEIN_TIMEOUT_SECONDS") is not { } text) return null;
        return double.TryParse(text, NumberStyles.Float, CultureInfo.InvariantCulture, out var seconds)
            && seconds is > 0 and <= MaximumTimeoutSeconds
            ? TimeSpan.FromSeconds(seconds)
            : throw new RendezvousException(
                $"SKEIN_TIMEOUT_SECONDS is '{text}': give a number of seconds above 0 and at most {MaximumTimeoutSeconds:0}");
    }

    /// <summary>Whether <c>SKEIN_ENCRYPTION</c> is on.</summary>
    /// <param name="variable">Looks up a variable; null for this process's environment.</param>
    /// <exception cref="RendezvousException">It is neither on nor off.</exception>
    public static bool ReadEncryption(Func<string, string?>? variable = null) => Wrap(variable)("SKEIN_ENCRYPTION") switch
    {
        null or "off" => false,
        "on" => true,
        var other => throw new RendezvousException($"SKEIN_ENCRYPTION is '{other}': give on or off"),
    };

    private static void Below(string name, int value, string limitName, int limit)
    {
        if (value >= limit)
        {
            throw new RendezvousException($"{name} is {value}, but {limitName} is {limit}: it must be from 0 to {limit - 1}");
        }
    }

    internal static int Required(Func<string, string?> read, string name, int minimum, int maximum, string because) =>
        Optional(read, name, minimum, maximum) ?? throw new RendezvousException($"{because}, but {name} is not: set both");

    internal static int? Optional(Func<string, string?> read, string name, int minimum, int maximum)
    {
        if (read(name) is not { } text) return null;
        return int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out var value) && value >= minimum && value <= maximum
            ? value
            : throw new RendezvousException($"{name} is '{text}': give a whole number from {minimum} to {maximum}");
    }
}
