namespace Skein.TestKit;

/// <summary>The checkout that the tests run in.</summary>
public static class Repository
{
    /// <summary>Its folder.</summary>
    public static string Root { get; } = FindRoot();

    /// <summary>Path of a file or folder of the checkout, given from its root.</summary>
    public static string PathOf(string path) => Path.Combine(Root, path);

    private static string FindRoot()
    {
        string? folder = AppContext.BaseDirectory;
        while (folder is not null && !File.Exists(Path.Combine(folder, "Skein.slnx"))) folder = Path.GetDirectoryName(folder);
        return folder ?? throw new InvalidOperationException("the tests do not run inside the repository");
    }
}
