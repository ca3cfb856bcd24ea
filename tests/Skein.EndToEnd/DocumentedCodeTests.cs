using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp;
using Microsoft.CodeAnalysis.CSharp.Syntax;
using Skein.TestKit;

namespace Skein.EndToEnd;

/// <summary>The programs in the documents are programs.</summary>
public sealed class DocumentedCodeTests
{
    // What ImplicitUsings gives a console program.
    private const string ImplicitUsings =
        """
        global using System;
        global using System.Collections.Generic;
        global using System.IO;
        global using System.Linq;
        global using System.Net.Http;
        global using System.Threading;
        global using System.Threading.Tasks;
        """;

    private static readonly CSharpParseOptions Language = new(LanguageVersion.Latest);

    private static readonly MetadataReference[] References =
    [
        .. ((string)AppContext.GetData("TRUSTED_PLATFORM_ASSEMBLIES")!).Split(Path.PathSeparator)
            .Select(static path => MetadataReference.CreateFromFile(path)),
    ];

    /// <summary>Place and text of each program: a block, or one that goes on from another, with that one before it.</summary>
    public static TheoryData<string, string> Programs
    {
        get
        {
            var programs = new TheoryData<string, string>();
            foreach (Document document in Document.All)
            {
                string begun = "";
                foreach (CodeBlock block in document.Blocks.Where(static block => block.Language == "csharp"))
                {
                    if (!block.Continues) begun = block.Code;
                    programs.Add(block.Place, block.Continues ? Join(begun, block.Code) : block.Code);
                }
            }

            return programs;
        }
    }

    [Theory]
    [MemberData(nameof(Programs))]
    public void A_program_in_a_document_compiles_with_the_usings_that_it_shows(string place, string program)
    {
        SyntaxTree tree = CSharpSyntaxTree.ParseText(program, Language, place);
        bool runs = tree.GetCompilationUnitRoot().Members.Any(static member => member is GlobalStatementSyntax);
        var options = new CSharpCompilationOptions(
            runs ? OutputKind.ConsoleApplication : OutputKind.DynamicallyLinkedLibrary,
            nullableContextOptions: NullableContextOptions.Enable);
        SyntaxTree usings = CSharpSyntaxTree.ParseText(ImplicitUsings, Language);
        CSharpCompilation compilation = CSharpCompilation.Create("Documented", [tree, usings], References, options);
        Diagnostic[] errors = [.. compilation.GetDiagnostics().Where(static found => found.Severity == DiagnosticSeverity.Error)];
        Assert.True(errors.Length == 0, string.Join('\n', errors.AsEnumerable()));
    }

    // Usings come first in a program, and types last.
    private static string Join(params string[] blocks)
    {
        CompilationUnitSyntax[] units = [.. blocks.Select(static text => CSharpSyntaxTree.ParseText(text, Language).GetCompilationUnitRoot())];
        IEnumerable<SyntaxNode> usings = units.SelectMany(static unit => unit.Usings);
        IEnumerable<SyntaxNode> members = units.SelectMany(static unit => unit.Members);
        IEnumerable<SyntaxNode> ordered = usings.Concat(members.OrderBy(static member => member is not GlobalStatementSyntax));
        return string.Concat(ordered.Select(static node => node.ToFullString()));
    }
}
