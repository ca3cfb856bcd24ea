using System.Net;
using System.Security.Cryptography;
using System.Text;

namespace Skein.Collectives.Rendezvous;

/// <summary>
/// How the ranks that torchrun started on one host find each other: <c>MASTER_PORT</c> is held by torchrun's own store, so
/// rank 0 listens at a free port and leaves it, with the job's secret, in a file that only this user can read.
/// </summary>
internal static class AgentRendezvous
{
    private const UnixFileMode OwnerOnly = UnixFileMode.UserRead | UnixFileMode.UserWrite;
    private static readonly TimeSpan Period = TimeSpan.FromMilliseconds(50);

    /// <summary>Whether the ranks meet this way. The same on all ranks of a job.</summary>
    public static bool Applies(ProcessGroupOptions options) =>
        options is { Agent: not null, WorldSize: > 1, RedisStore: null, StoreHostedByLauncher: false }
        && options.LocalWorldSize == options.WorldSize;

    /// <summary>Starts the store on rank 0, and waits for it on the others.</summary>
    /// <returns>The options with the rendezvous filled in, and on rank 0 the store that was started.</returns>
    public static async Task<(ProcessGroupOptions Options, TcpStoreServer? Server)> MeetAsync(
        ProcessGroupOptions options, CancellationToken cancellationToken)
    {
        string path = PathOf(options.Agent!);
        if (options.Rank == 0)
        {
            JobSecret secret = (options.Secret ?? JobSecret.Generate()).WithEncryption(options.Encryption);
            TcpStoreServer server = TcpStoreServer.Start(new IPEndPoint(IPAddress.Loopback, 0), secret, options.Logger);
            Publish(path, $"{Environment.ProcessId} {StartOf(Environment.ProcessId)} {server.Endpoint.Port} {secret.ToHex()}");
            return (At(options, server.Endpoint.Port, secret), server);
        }

        using var limit = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        limit.CancelAfter(options.Timeout);
        while (true)
        {
            // A file of a process that is gone is an earlier job's, which rank 0 is about to replace.
            if (Read(path) is [var process, var start, var port, var secret] && StartOf(int.Parse(process)) == start)
            {
                return (At(options, int.Parse(port), JobSecret.FromHex(secret)), null);
            }

            try
            {
                await Task.Delay(Period, limit.Token).ConfigureAwait(false);
            }
            catch (OperationCanceledException) when (!cancellationToken.IsCancellationRequested)
            {
                throw new CollectiveTimeoutException(
                    $"rank {options.Rank} waited {options.Timeout.TotalSeconds:0.###} s for rank 0 of torchrun's job to leave its port in {path}; "
                    + "was it started?");
            }
        }
    }

    /// <summary>On rank 0, once all ranks have joined: nobody reads the file any more.</summary>
    public static void Forget(ProcessGroupOptions options)
    {
        if (!Applies(options)) return;
        try
        {
            File.Delete(PathOf(options.Agent!));
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            // The next job replaces it.
        }
    }

    private static ProcessGroupOptions At(ProcessGroupOptions options, int port, JobSecret secret) =>
        options with { MasterAddress = "127.0.0.1", MasterPort = port, Secret = secret.WithEncryption(options.Encryption) };

    private static string PathOf(string agent)
    {
        string home = Environment.GetFolderPath(Environment.SpecialFolder.LocalApplicationData, Environment.SpecialFolderOption.Create);
        if (home.Length == 0)
        {
            throw new RendezvousException(
                "torchrun's own store holds MASTER_PORT, and without a home directory the ranks have no private folder to leave another port in: "
                + "set HOME, or start the job with 'skein launch'");
        }

        // A home may be shared by many hosts.
        byte[] name = SHA256.HashData(Encoding.UTF8.GetBytes($"{agent} {RankAddress.LocalHostId()}"));
        return Path.Combine(home, "skein", "rendezvous", Convert.ToHexStringLower(name.AsSpan(0, 16)));
    }

    private static void Publish(string path, string text)
    {
        try
        {
            if (OperatingSystem.IsWindows()) Directory.CreateDirectory(Path.GetDirectoryName(path)!);
            else Directory.CreateDirectory(Path.GetDirectoryName(path)!, OwnerOnly | UnixFileMode.UserExecute);
            string unfinished = $"{path}.{Environment.ProcessId}";
            File.Delete(unfinished);
            var options = new FileStreamOptions { Mode = FileMode.CreateNew, Access = FileAccess.Write };
            if (!OperatingSystem.IsWindows()) options.UnixCreateMode = OwnerOnly;
            using (var stream = new FileStream(unfinished, options)) stream.Write(Encoding.ASCII.GetBytes(text));
            File.Move(unfinished, path, overwrite: true);
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            throw new RendezvousException(
                $"torchrun's own store holds MASTER_PORT, and another port cannot be left in {path}: {error.Message}; "
                + "let HOME be a folder of yours, or start the job with 'skein launch'", error);
        }
    }

    private static string[] Read(string path)
    {
        try
        {
            return File.ReadAllText(path).Split(' ');
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            return [];
        }
    }

    // Process numbers are used again, but not with the same start.
    private static string? StartOf(int process)
    {
        try
        {
            string line = File.ReadAllText($"/proc/{process}/stat");
            return line[(line.LastIndexOf(')') + 2)..].Split(' ')[19];
        }
        catch (IOException)
        {
            return null;
        }
    }
}
