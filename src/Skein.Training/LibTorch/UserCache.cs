using System.Runtime.InteropServices;

namespace Skein.Training.LibTorch;

/// <summary>
/// The folder for what can be made again: <c>$XDG_CACHE_HOME/skein</c>, else <c>~/.cache/skein</c>; where that cannot be written, as in
/// containers that run under any user id, a folder of this user's alone under the temporary directory.
/// </summary>
internal static class UserCache
{
    private static int told;

    /// <summary>Returns the path of a file or folder that the cache has, or null.</summary>
    internal static string? Find(params ReadOnlySpan<string> parts)
    {
        string name = Path.Combine(parts);
        if (Usual() is { } usual && Path.Exists(Path.Combine(usual, name))) return Path.Combine(usual, name);
        return Path.Exists(Path.Combine(Temporary, name)) ? Path.Combine(MakePrivate(Temporary), name) : null;
    }

    /// <summary>Returns the path of a file or folder in the cache: of the one that exists, else of where it can be made.</summary>
    /// <exception cref="IOException">There is no folder to write to.</exception>
    internal static string PathOf(params ReadOnlySpan<string> parts)
    {
        if (Find(parts) is { } existing) return existing;
        string name = Path.Combine(parts);
        string? usual = Usual();
        if (usual is not null && CanWrite(usual)) return Path.Combine(usual, name);
        string fallback = MakePrivate(Temporary);
        if (Interlocked.Exchange(ref told, 1) == 0)
        {
            string why = usual is null ? "there is no home folder" : $"{usual} cannot be written";
            Console.Error.WriteLine($"skein: {why}, so what can be made again goes to {fallback}");
        }

        return Path.Combine(fallback, name);
    }

    /// <summary>Writes a file so that other processes see it whole or not at all. The last of several writers wins.</summary>
    internal static void Write(string path, ReadOnlySpan<byte> content)
    {
        Directory.CreateDirectory(Path.GetDirectoryName(path)!);
        // Not by the process's number: containers that share the folder may have the same ones.
        string temporary = $"{path}.{Path.GetRandomFileName()}.tmp";
        try
        {
            using (var file = new FileStream(temporary, FileMode.CreateNew))
            {
                file.Write(content);
                file.Flush(flushToDisk: true);
            }

            File.Move(temporary, path, overwrite: true);
        }
        catch
        {
            File.Delete(temporary);
            throw;
        }
    }

    private static string Temporary => Path.Combine(Path.GetTempPath(), OperatingSystem.IsWindows() ? "skein" : $"skein-{GetUserId()}");

    private static string? Usual()
    {
        if (Environment.GetEnvironmentVariable("XDG_CACHE_HOME") is { Length: > 0 } given) return Path.Combine(given, "skein");
        string home = Environment.GetFolderPath(Environment.SpecialFolder.UserProfile);
        return home.Length == 0 ? null : Path.Combine(home, ".cache", "skein");
    }

    /// <summary>Says whether files can be made in that folder, which is made if it is not there.</summary>
    internal static bool CanWrite(string root)
    {
        try
        {
            Directory.CreateDirectory(root);
            using var probe = new FileStream(Path.Combine(root, Path.GetRandomFileName()), new FileStreamOptions
            {
                Mode = FileMode.CreateNew,
                Access = FileAccess.Write,
                Options = FileOptions.DeleteOnClose,
            });
            return true;
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            return false;
        }
    }

    // Code is loaded from here: nobody else may have put it there.
    private static string MakePrivate(string folder)
    {
        if (OperatingSystem.IsWindows()) return Directory.CreateDirectory(folder).FullName;
        const UnixFileMode ownerOnly = UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute;
        try
        {
            Directory.CreateDirectory(folder, ownerOnly);
            if (new DirectoryInfo(folder).LinkTarget is null && ChangeOwner(folder, GetUserId(), uint.MaxValue) == 0)
            {
                File.SetUnixFileMode(folder, ownerOnly);
                return folder;
            }
        }
        catch (UnauthorizedAccessException)
        {
            // It is somebody else's, as when the owner could not be changed.
        }

        throw new IOException($"{folder} belongs to somebody else and there is no other folder for caches: set XDG_CACHE_HOME to one that can be written");
    }

    [DllImport("libc", EntryPoint = "geteuid")]
    private static extern uint GetUserId();

    [DllImport("libc", EntryPoint = "lchown")]
    private static extern int ChangeOwner([MarshalAs(UnmanagedType.LPUTF8Str)] string path, uint owner, uint group);
}
