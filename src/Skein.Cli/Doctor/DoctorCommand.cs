using System.CommandLine;
using System.Text.Encodings.Web;
using System.Text.Json;
using Skein.Cli.LibTorch;

namespace Skein.Cli.Doctor;

/// <summary><c>skein doctor</c>: what works on this machine, and how to get what does not.</summary>
internal static class DoctorCommand
{
    private static readonly Func<Finding?>[] Checks =
    [
        MachineChecks.Runtime,
        MachineChecks.Processor,
        MachineChecks.HugePages,
        LibraryChecks.LibTorch,
        ProjectChecks.LibTorch,
        LibraryChecks.Gpu,
        ImageChecks.Images,
        TransportChecks.Tcp,
        TransportChecks.Ports,
        TransportChecks.SharedMemory,
        LibraryChecks.Mpi,
        TransportChecks.Redis,
    ];

    private static readonly JsonSerializerOptions Format = new()
    {
        PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower,
        Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping,
    };

    private static readonly Option<bool> Fix = new("--fix") { Description = "Bring LibTorch, where it is missing, into the package cache first" };

    public static Command Create()
    {
        var command = new Command("doctor", "Says what works on this machine, and how to get what does not") { MeshChecks.Mesh, Fix };
        command.SetAction(RunAsync);
        return command;
    }

    private static async Task<int> RunAsync(ParseResult parsed, CancellationToken cancellationToken)
    {
        if (parsed.GetValue(Fix)) await LibTorchFetch.EnsureLoadedAsync();
        var json = parsed.GetValue(CommonOptions.Json);
        var output = json ? Console.Error : Console.Out;
        var findings = new List<Finding>();
        var mesh = parsed.GetValue(MeshChecks.Mesh) is { } text ? MeshChecks.Read(text) : null;
        foreach (var check in mesh is null ? Checks : Checks.Append(() => MeshChecks.Try(mesh)))
        {
            if (check() is not { } finding) continue;
            findings.Add(finding);
            output.WriteLine($"{Label(finding.Status),-18} {finding.Name,-14} {finding.Detail.Replace("\n", $"\n{"",-33} ", StringComparison.Ordinal)}");
            if (finding.Remedy is not null) output.WriteLine($"{"",-33} -> {finding.Remedy}");
        }

        var ok = findings.TrueForAll(finding => finding.Status != FindingStatus.Failed);
        if (json)
        {
            var checks = findings.Select(finding => new
            {
                finding.Name,
                Status = finding.Status.ToString().ToLowerInvariant(),
                finding.Detail,
                finding.Remedy,
            });
            Console.WriteLine(JsonSerializer.Serialize(new { ok, checks }, Format));
        }

        return ok ? 0 : CommandLine.Failed;
    }

    private static string Label(FindingStatus status) => status switch
    {
        FindingStatus.Ok => "ok",
        FindingStatus.Absent => "absent (optional)",
        _ => "failed",
    };
}
