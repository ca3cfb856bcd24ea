using System.Runtime.InteropServices;
using Skein.Training.LibTorch;

namespace Skein.Training.Tests;

public sealed class UserCacheTests : IDisposable
{
    private readonly string directory = Directory.CreateTempSubdirectory("skein-test-").FullName;
    private readonly string? cacheBefore = Environment.GetEnvironmentVariable("XDG_CACHE_HOME");
    private readonly string? temporaryBefore = Environment.GetEnvironmentVariable("TMPDIR");

    public UserCacheTests() => Environment.SetEnvironmentVariable("TMPDIR", directory);

    public void Dispose()
    {
        Environment.SetEnvironmentVariable("XDG_CACHE_HOME", cacheBefore);
        Environment.SetEnvironmentVariable("TMPDIR", temporaryBefore);
        Directory.Delete(directory, recursive: true);
    }

    [Fact]
    public void The_users_cache_is_used_where_it_can_be_written()
    {
        string cache = Path.Combine(directory, "cache");
        Environment.SetEnvironmentVariable("XDG_CACHE_HOME", cache);
        string path = UserCache.PathOf("native", "one");
        Assert.Equal(Path.Combine(cache, "skein", "native", "one"), path);
        UserCache.Write(path, [1, 2, 3]);
        Assert.Equal([1, 2, 3], File.ReadAllBytes(path));
        Assert.Equal([path], Directory.GetFiles(cache, "*", SearchOption.AllDirectories));
        Assert.Equal(path, UserCache.Find("native", "one"));
        Assert.Null(UserCache.Find("native", "two"));
    }

    [Fact]
    public void Where_it_cannot_be_written_a_folder_of_this_users_alone_takes_its_place()
    {
        // Not even the superuser can make a folder below a file.
        string file = Path.Combine(directory, "file");
        File.WriteAllText(file, "");
        Environment.SetEnvironmentVariable("XDG_CACHE_HOME", file);
        string path = UserCache.PathOf("native", "one");
        Assert.StartsWith(Path.Combine(directory, "skein-"), path, StringComparison.Ordinal);
        UserCache.Write(path, [1]);
        Assert.Equal(path, UserCache.Find("native", "one"));
        string root = path[..path.IndexOf("/native", StringComparison.Ordinal)];
        if (!OperatingSystem.IsWindows()) Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute, File.GetUnixFileMode(root));
    }

    [Fact]
    public void A_planted_folder_is_refused()
    {
        string file = Path.Combine(directory, "file");
        File.WriteAllText(file, "");
        Environment.SetEnvironmentVariable("XDG_CACHE_HOME", file);
        string elsewhere = Directory.CreateDirectory(Path.Combine(directory, "elsewhere")).FullName;
        Directory.CreateSymbolicLink(Path.Combine(directory, $"skein-{GetUserId()}"), elsewhere);
        var error = Assert.Throws<IOException>(() => UserCache.PathOf("native", "one"));
        Assert.Contains("set XDG_CACHE_HOME", error.Message, StringComparison.Ordinal);
        Assert.Empty(Directory.GetFileSystemEntries(elsewhere));
    }

    [DllImport("libc", EntryPoint = "geteuid")]
    private static extern uint GetUserId();
}
