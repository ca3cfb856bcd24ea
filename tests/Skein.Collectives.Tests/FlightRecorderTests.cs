namespace Skein.Collectives.Tests;

/// <summary>Where a rank's dump goes, and what it leaves alone.</summary>
public sealed class FlightRecorderTests : IDisposable
{
    private readonly string directory = Directory.CreateTempSubdirectory("skein-recorder-").FullName;

    public void Dispose() => Directory.Delete(directory, recursive: true);

    [Fact]
    public void A_planted_link_is_replaced_and_not_followed()
    {
        string victim = Path.Combine(directory, "victim"), path = FlightRecorder.PathOf(directory, 3);
        File.WriteAllText(victim, "untouched");
        File.CreateSymbolicLink(path, victim);
        FlightRecorder.Write([new FlightRecorder("world")], path);
        Assert.Equal("untouched", File.ReadAllText(victim));
        Assert.Null(new FileInfo(path).LinkTarget);
        Assert.Contains("\"world\"", File.ReadAllText(path));
        Assert.Equal([path, victim], Directory.GetFiles(directory).Order());
    }

    [Fact]
    public void Only_its_user_reads_it()
    {
        if (OperatingSystem.IsWindows()) return;
        string path = FlightRecorder.PathOf(directory, 0);
        FlightRecorder.Write([], path);
        Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite, File.GetUnixFileMode(path));
    }

    [Fact]
    public void In_the_temporary_folder_its_name_cannot_be_known_beforehand() =>
        Assert.NotEqual(FlightRecorder.PathOf(null, 0), FlightRecorder.PathOf(null, 0));
}
