namespace Skein.Training.LibTorch;

/// <summary>The folder for what can be made again: <c>$XDG_CACHE_HOME/skein</c>, else <c>~/.cache/skein</c>.</summary>
internal static class UserCache
{
    /// <summary>Path of a file in the cache; the file need not exist.</summary>
    internal static string PathOf(params ReadOnlySpan<string> parts)
    {
        string? root = Environment.GetEnvironmentVariable("XDG_CACHE_HOME");
        if (string.IsNullOrEmpty(root))
        {
            root = Path.Combine(Environment.GetFolderPath(Environment.SpecialFolder.UserProfile), ".cache");
        }

        return Path.Combine([root, "skein", .. parts]);
    }

    /// <summary>
    /// Writes a file so that other processes see it whole or not at all. The last of several writers wins.
    /// </summary>
    internal static void Write(string path, ReadOnlySpan<byte> content)
    {
        Directory.CreateDirectory(Path.GetDirectoryName(path)!);
        string temporary = $"{path}.{Environment.ProcessId}.tmp";
        using (var file = new FileStream(temporary, FileMode.Create))
        {
            file.Write(content);
            file.Flush(flushToDisk: true);
        }

        File.Move(temporary, path, overwrite: true);
    }
}
