using System.ComponentModel;
using System.Diagnostics;

namespace Skein.EndToEnd;

/// <summary>Whether this user may give a process a network, mounts and process numbers of its own.</summary>
internal static class Namespaces
{
    private static readonly Lazy<bool> Allowed = new(static () =>
    {
        var start = new ProcessStartInfo("unshare", ["--mount", "--net", "--pid", "--fork", "--mount-proc", "true"]) { RedirectStandardError = true };
        try
        {
            using var process = Process.Start(start)!;
            process.WaitForExit();
            return process.ExitCode == 0;
        }
        catch (Win32Exception)
        {
            return false;
        }
    });

    public static void SkipUnlessAllowed() => Assert.SkipUnless(Allowed.Value, "needs root, and unshare (Debian: util-linux) that is not forbidden");
}
