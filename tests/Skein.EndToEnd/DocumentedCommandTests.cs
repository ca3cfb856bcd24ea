using Skein.TestKit;

namespace Skein.EndToEnd;

/// <summary>What the documents tell to type works as written, unless it is marked as an example. Skein.Cli.Tests reads those too.</summary>
public sealed class DocumentedCommandTests : IDisposable
{
    private readonly string directory = Directory.CreateTempSubdirectory("skein-documented-").FullName;

    public void Dispose() => Directory.Delete(directory, recursive: true);

    /// <summary>Place and text of each block of commands.</summary>
    public static TheoryData<string, string> Scripts
    {
        get
        {
            var scripts = new TheoryData<string, string>();
            foreach (CodeBlock block in Document.BlocksOf("sh").Where(static block => !block.IsExample))
            {
                scripts.Add(block.Place, block.Code);
            }

            return scripts;
        }
    }

    [Theory]
    [MemberData(nameof(Scripts))]
    public async Task Commands_that_a_document_shows_do_their_work(string place, string script)
    {
        // Like a checkout that is built, and like a machine with the tool; what commands write stays in here.
        string prepared =
            $"""
            cd '{directory}'
            printf '#!/bin/sh\nexec dotnet "%s" "$@"\n' '{SkeinProcess.Program}' >skein
            chmod +x skein
            ln -s '{Repository.PathOf("artifacts")}' artifacts
            PATH=$PWD:$PATH

            """;
        await using var shell = SkeinProcess.StartProgram("sh", [("SKEIN_TIMEOUT_SECONDS", "60")], "-euc", prepared + script);
        int code = await shell.ExitAsync();
        Assert.True(code == 0, $"{place} ended with {code}: {string.Join('\n', shell.Output.Concat(shell.Errors))}");
    }
}
