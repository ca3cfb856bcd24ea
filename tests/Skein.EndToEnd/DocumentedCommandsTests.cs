using System.Text.RegularExpressions;

namespace Skein.EndToEnd;

/// <summary>
/// The commands of README and docs work as they are written there, except that trainings are cut short, and those of language models
/// read a short text. What holds a place of the reader's (PROGRAM, an address, ...) is an example and is not run.
/// </summary>
public sealed partial class DocumentedCommandsTests : IDisposable
{
    private static readonly TimeSpan Patience = TimeSpan.FromMinutes(5);

    private readonly string directory = Directory.CreateTempSubdirectory("skein-documented-").FullName;

    public DocumentedCommandsTests()
    {
        string skein = Path.Combine(directory, "skein");
        File.WriteAllText(skein, $"#!/bin/sh\nexec dotnet '{SkeinProcess.Program}' \"$@\"\n");
        if (!OperatingSystem.IsWindows()) File.SetUnixFileMode(skein, UnixFileMode.UserRead | UnixFileMode.UserExecute);
        IEnumerable<string> lines = Enumerable.Range(0, 1500).Select(static i => $"And God said, Let there be {i}: and there was {i}.");
        File.WriteAllLines(Path.Combine(directory, "notes.txt"), lines);
        Directory.CreateSymbolicLink(Path.Combine(directory, "artifacts"), Path.Combine(RepositoryTests.Root, "artifacts"));
    }

    public static TheoryData<string> Commands =>
    [
        .. Directory.GetFiles(Path.Combine(RepositoryTests.Root, "docs"), "*.md").Order()
            .Prepend(Path.Combine(RepositoryTests.Root, "README.md"))
            .SelectMany(static file => ShellBlock().Matches(File.ReadAllText(file)))
            .SelectMany(static block => block.Groups[1].Value.Split('\n'))
            .Select(static line => Comment().Replace(line, ""))
            .Where(static line => line.StartsWith("./skein ", StringComparison.Ordinal) && !ReadersOwn().IsMatch(line))
            .Distinct(),
    ];

    public void Dispose() => Directory.Delete(directory, recursive: true);

    [Theory]
    [MemberData(nameof(Commands))]
    public async Task A_command_of_the_documents_works(string command)
    {
        bool hasImages = Directory.Exists("/usr/share/datasets/fashion-mnist") || Environment.GetEnvironmentVariable("SKEIN_DATA_DIR") is not null;
        Assert.SkipUnless(hasImages || !Says("fashion-mnist"), "needs Debian's package dataset-fashion-mnist, or SKEIN_DATA_DIR");
        string run = command;
        if (Says(" train")) run += " --max-steps 2";
        if (Says("train language-model") && !Says("--text")) run += " --text notes.txt";
        await using var process = SkeinProcess.StartProgram(
            "sh", [("OMP_NUM_THREADS", "1"), ("SKEIN_TIMEOUT_SECONDS", "60")], "-c", $"cd '{directory}' && {run}");
        int code = await process.ExitAsync(Patience);
        Assert.True(code == 0, $"{run}: exit code {code}\n{string.Join('\n', process.Errors)}");

        bool Says(string words) => command.Contains(words, StringComparison.Ordinal);
    }

    [GeneratedRegex("^```sh\n(.*?)^```", RegexOptions.Singleline | RegexOptions.Multiline)]
    private static partial Regex ShellBlock();

    [GeneratedRegex(@"\s+#.*$")]
    private static partial Regex Comment();

    [GeneratedRegex(@"\b[A-Z]{3,}\b|\b10\.0\.0\.|<\w+>|\.\.\.")]
    private static partial Regex ReadersOwn();
}
