using System.IO.Compression;

namespace Skein.Workloads.Tests.Fetching;

public sealed class PublishedFilesTests : IDisposable
{
    private const string Located = "echo \"$address\"";
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(60);

    private readonly FetchingPlace place = new();

    public void Dispose() => place.Dispose();

    [Fact]
    public void Files_are_where_the_user_says_else_where_the_package_puts_them_else_in_the_cache()
    {
        Assert.Null(place.Files.Find());
        place.Folder("cache/skein/numbers", "a.gz");
        Assert.Null(place.Files.Find());
        string cache = place.Folder("cache/skein/numbers", "b.gz");
        Assert.Equal(cache, place.Files.Find());
        string package = place.Folder("packages/numbers", "a.gz", "b.gz");
        Assert.Equal(package, place.Files.Find());
        string given = place.Folder("given/numbers", "a.gz", "b.gz");
        place.Set("SKEIN_DATA_DIR", given);
        Assert.Equal(given, place.Files.Find());
        place.Set("SKEIN_DATA_DIR", Path.GetDirectoryName(given));
        Assert.Equal(given, place.Files.Find());

        string incomplete = place.Folder("incomplete", "a.gz");
        place.Set("SKEIN_DATA_DIR", incomplete);
        var error = Assert.Throws<FileNotFoundException>(() => place.Files.Find());
        Assert.Equal(
            $"SKEIN_DATA_DIR is {incomplete}, but b.gz is not there; put the 2 files of Numbers there, or unset it", error.Message);
    }

    [Fact]
    public async Task Debians_package_is_taken_apart_into_the_cache_without_the_publisher()
    {
        place.HaveDebian(locate: Located, update: "exit 100");
        place.Serve($"{FetchingPlace.Package}.deb", place.GoodPackage());
        var reports = new Reports();
        Assert.Equal(place.Cache, await place.Files.FetchAsync(reports, CancellationToken.None));
        place.AssertFetched();
        Assert.Equal([$"{FetchingPlace.Package}.deb"], place.Server.Requests);
        long size = place.GoodPackage().Length;
        Assert.Equal((size, size), (reports.All[^1].Bytes, reports.All[^1].Total));
    }

    [Fact]
    public async Task Package_lists_that_do_not_know_the_package_are_made_anew_in_a_folder_of_their_own()
    {
        place.HaveDebian(
            locate: """[ $fresh = yes ] && [ -f "${2%/*}/lists/made" ] && echo "$address" || exit 100""",
            update: """[ $fresh = yes ] && touch "${2%/*}/lists/made" """);
        place.Serve($"{FetchingPlace.Package}.deb", place.GoodPackage());
        string[] before = Directory.GetDirectories(Path.GetTempPath(), "skein-apt-*");
        var reports = new Reports();
        await place.Files.FetchAsync(reports, CancellationToken.None);
        place.AssertFetched();
        Assert.Equal($"asking the package sources for {FetchingPlace.Package}", reports.All[0].What);
        Assert.Equal(before, Directory.GetDirectories(Path.GetTempPath(), "skein-apt-*"));
    }

    [Theory]
    [InlineData("no network")]
    [InlineData("no such file")]
    [InlineData("no package")]
    [InlineData("other content")]
    [InlineData("other files")]
    public async Task Where_Debian_fails_the_publisher_is_asked(string fault)
    {
        place.HaveDebian(locate: fault == "no network" ? "exit 100" : Located, update: "exit 100");
        if (fault == "no package") place.Serve($"{FetchingPlace.Package}.deb", [.. Enumerable.Repeat((byte)7, 5000)]);
        if (fault == "other content") place.Serve($"{FetchingPlace.Package}.deb", place.PackageOf([1, 2, 3]));
        if (fault == "other files") place.Serve($"{FetchingPlace.Package}.deb", new byte[10240]);
        await place.Files.FetchAsync(null, CancellationToken.None);
        place.AssertFetched();
        Assert.Equal(["a.gz", "b.gz"], place.Server.Requests.Where(name => name.EndsWith(".gz", StringComparison.Ordinal)));
    }

    [Fact]
    public async Task A_connection_that_breaks_is_taken_up_again()
    {
        place.Server.BreaksAfter = 1000;
        await place.Files.FetchAsync(null, CancellationToken.None);
        place.AssertFetched();
        Assert.Equal(["a.gz", "a.gz from 1000", "a.gz from 2000", "a.gz from 3000", "b.gz"], place.Server.Requests);
    }

    [Fact]
    public async Task A_half_download_is_continued_by_the_next_start()
    {
        place.Server.BreaksAfter = 400;
        await Assert.ThrowsAsync<FileNotFoundException>(() => place.Files.FetchAsync(null, CancellationToken.None));
        string part = Path.Combine(place.Cache, "a.gz.part");
        Assert.Equal(place.Content["a.gz"][..1600], File.ReadAllBytes(part));
        place.Server.Requests.Clear();

        place.Server.BreaksAfter = int.MaxValue;
        await place.Files.FetchAsync(null, CancellationToken.None);
        place.AssertFetched();
        Assert.Equal(["a.gz from 1600", "b.gz"], place.Server.Requests);
    }

    [Theory]
    [InlineData(500)]
    [InlineData(100_000)]
    public async Task What_was_kept_of_another_version_is_replaced(int length)
    {
        File.WriteAllBytes(Path.Combine(place.Folder("cache/skein/numbers"), "a.gz.part"), new byte[length]);
        await place.Files.FetchAsync(null, CancellationToken.None);
        place.AssertFetched();
        Assert.Equal([$"a.gz from {length}", "a.gz", "b.gz"], place.Server.Requests);
    }

    [Theory]
    [InlineData("other content")]
    [InlineData("no gzip")]
    public async Task Another_file_than_was_published_is_not_kept_and_what_was_there_stays(string fault)
    {
        place.Folder("cache/skein/numbers", "a.gz");
        place.Serve("b.gz", fault == "no gzip" ? [1, 2, 3] : FetchingPlace.Compress([1, 2, 3], CompressionLevel.Fastest));
        var error = await Assert.ThrowsAsync<FileNotFoundException>(() => place.Files.FetchAsync(null, CancellationToken.None));
        Assert.Contains("b.gz is not what was published", error.Message, StringComparison.Ordinal);
        Assert.Equal([".lock", "a.gz"], Directory.GetFileSystemEntries(place.Cache).Select(Path.GetFileName).Order());
        Assert.Equal(place.Content["a.gz"], File.ReadAllBytes(Path.Combine(place.Cache, "a.gz")));
    }

    [Fact]
    public async Task Without_a_network_one_line_says_who_was_asked_and_what_to_do()
    {
        place.HaveDebian(locate: "echo 'E: Unable to locate package' >&2; exit 100", update: "echo 'W: Could not resolve host' >&2");
        place.Server.Dispose();
        var error = await Assert.ThrowsAsync<FileNotFoundException>(() => place.Files.FetchAsync(null, CancellationToken.None));
        Assert.StartsWith(
            $"Numbers is not here and cannot be fetched (as Debian's package {FetchingPlace.Package}: W: Could not resolve host; " +
            $"from {place.Files.PublishedAt}: Connection refused",
            error.Message,
            StringComparison.Ordinal);
        Assert.EndsWith("or set SKEIN_DATA_DIR to a folder with a.gz, b.gz", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Where_the_cache_cannot_be_written_a_folder_of_this_users_alone_takes_the_files()
    {
        place.Set("XDG_CACHE_HOME", Path.Combine(place.Folder("elsewhere", "a.gz"), "a.gz"));
        string folder = await place.Files.FetchAsync(null, CancellationToken.None);
        Assert.StartsWith(Path.Combine(Path.GetTempPath(), "skein-"), folder, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Of_two_first_starts_one_fetches_and_the_other_says_that_it_waits()
    {
        var opens = new TaskCompletionSource();
        place.Server.Opens = opens.Task;
        Reports[] reports = [new(), new()];
        Task<string>[] starts = [.. reports.Select(each => place.Files.FetchAsync(each, CancellationToken.None))];
        await Task.WhenAny(reports.Select(static each => each.Waits)).WaitAsync(Patience);
        opens.SetResult();
        await Task.WhenAll(starts).WaitAsync(Patience);
        place.AssertFetched();
        Assert.Equal(["a.gz", "b.gz"], place.Server.Requests);
    }

    [Fact]
    public async Task A_server_that_falls_silent_is_given_up_after_the_jobs_timeout()
    {
        place.Set("SKEIN_TIMEOUT_SECONDS", "1");
        place.Server.Opens = new TaskCompletionSource().Task;
        Task fetching = place.Files.FetchAsync(null, CancellationToken.None);
        var error = await Assert.ThrowsAsync<FileNotFoundException>(() => fetching.WaitAsync(Patience));
        Assert.Contains("127.0.0.1 was silent for 1 s", error.Message, StringComparison.Ordinal);
    }
}
