using System.Diagnostics;
using System.Globalization;
using System.Net;
using System.Net.Sockets;

namespace Skein.Collectives.Tests.Rendezvous;

/// <summary>A real redis-server with a password, on a port of its own, without persistence.</summary>
public sealed class RedisServer : IAsyncLifetime
{
    private readonly string folder = Directory.CreateTempSubdirectory("skein-redis-").FullName;
    private Process? process;
    private bool missing;

    public string Password { get; } = Guid.NewGuid().ToString("N");

    public string Address { get; private set; } = "";

    public string Configuration => $"{Address},password={Password}";

    public async ValueTask InitializeAsync()
    {
        // redis-server cannot choose its port: take one that is free now, and another one if it was taken meanwhile.
        for (int attempt = 1; attempt <= 5; attempt++)
        {
            int port = FreePort();
            var start = new ProcessStartInfo("redis-server") { RedirectStandardOutput = true, RedirectStandardInput = true };
            start.ArgumentList.Add("-"); // The configuration comes through standard input, so that the password is in no process list.
            try
            {
                process = Process.Start(start)!;
            }
            catch (System.ComponentModel.Win32Exception)
            {
                missing = true;
                return;
            }

            await process.StandardInput.WriteAsync(string.Create(
                CultureInfo.InvariantCulture, $"port {port}\nbind 127.0.0.1\nrequirepass {Password}\nsave \"\"\nappendonly no\ndir {folder}\n"));
            process.StandardInput.Close();
            Address = string.Create(CultureInfo.InvariantCulture, $"127.0.0.1:{port}");
            using var limit = new CancellationTokenSource(TimeSpan.FromSeconds(20));
            while (await process.StandardOutput.ReadLineAsync(limit.Token) is { } line)
            {
                if (!line.Contains("Ready to accept connections")) continue;
                _ = process.StandardOutput.ReadToEndAsync(CancellationToken.None);
                return;
            }
        }

        throw new InvalidOperationException("redis-server did not start");
    }

    public void SkipIfMissing() => Assert.SkipWhen(missing, "redis-server is not installed (Debian: apt-get install redis-server)");

    public void Kill() => process?.Kill();

    public ValueTask DisposeAsync()
    {
        process?.Kill();
        process?.WaitForExit();
        process?.Dispose();
        Directory.Delete(folder, recursive: true);
        return ValueTask.CompletedTask;
    }

    private static int FreePort()
    {
        using var probe = new TcpListener(IPAddress.Loopback, 0);
        probe.Start();
        return ((IPEndPoint)probe.LocalEndpoint).Port;
    }
}
