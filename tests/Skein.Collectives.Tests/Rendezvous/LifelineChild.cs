using System.Diagnostics;
using System.Globalization;
using System.Runtime.CompilerServices;
using Skein.Collectives.Rendezvous;

namespace Skein.Collectives.Tests.Rendezvous;

/// <summary>This test program started once more, as a real process that is one rank of a lifeline, to be killed.</summary>
internal static class LifelineChild
{
    private const string Role = "SKEIN_TEST_LIFELINE";

    public static Process Start(int port, int rank, int worldSize, JobSecret secret)
    {
        string program = Environment.ProcessPath!;
        var start = new ProcessStartInfo(program) { RedirectStandardOutput = true, RedirectStandardInput = true };
        if (Path.GetFileNameWithoutExtension(program) == "dotnet") start.ArgumentList.Add(typeof(LifelineChild).Assembly.Location);
        start.Environment[Role] = string.Create(CultureInfo.InvariantCulture, $"{port} {rank} {worldSize}");
        start.Environment["SKEIN_JOB_SECRET"] = secret.ToHex();
        return Process.Start(start)!;
    }

    // Before the test platform's own entry point. Only blocking calls: other threads could not enter this module yet.
    [ModuleInitializer]
    internal static void RunIfChild()
    {
        if (Environment.GetEnvironmentVariable(Role) is not { Length: > 0 } role) return;
        string[] parts = role.Split(' ');
        Lifeline.ConnectAsync(
            "127.0.0.1", int.Parse(parts[0], CultureInfo.InvariantCulture), int.Parse(parts[1], CultureInfo.InvariantCulture),
            int.Parse(parts[2], CultureInfo.InvariantCulture), JobSecret.FromEnvironment()!, TimeSpan.FromSeconds(20)).GetAwaiter().GetResult();
        Console.WriteLine("connected");

        // Ends with the parent at the latest.
        Console.In.ReadToEnd();
        Environment.Exit(0);
    }
}
