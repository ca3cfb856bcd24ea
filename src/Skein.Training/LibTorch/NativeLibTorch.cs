using System.Diagnostics.CodeAnalysis;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Security.Cryptography;
using TorchSharp;

namespace Skein.Training.LibTorch;

/// <summary>Loads LibTorch and TorchSharp's native binding before TorchSharp looks for them itself.</summary>
/// <remarks>
/// <para>
/// The libraries come from the program's own folder, else from the user's package cache (<see cref="LibTorchPackage"/>). On Linux nothing is copied; where the system has GCC 12's libstdc++ (Debian 12,
/// Ubuntu 22.04) a rewritten copy of the binding is prepared in the user's cache folder. Where the shipped binding loads, and on other
/// systems, it is used as it is.
/// </para>
/// <para>
/// Loading happens once per process, at the start of a program that references the package, else when the first member of this assembly
/// is used. All members are thread-safe.
/// </para>
/// </remarks>
public static class NativeLibTorch
{
    private const string Binding = "libLibTorchSharp.so";

    private static readonly Lock Loading = new();
    private static LibTorchStatus? status;

    /// <summary>Says what was loaded from where. Reading it loads LibTorch; it never throws.</summary>
    public static LibTorchStatus Status
    {
        get
        {
            lock (Loading) return status ??= Attempt();
        }
    }

    /// <summary>Loads LibTorch unless that has happened already. What failed before is tried again: the package may have come since.</summary>
    /// <exception cref="DllNotFoundException">LibTorch cannot be used here; the message says why and what to do.</exception>
    public static void Load()
    {
        lock (Loading)
        {
            if (status is null or { Problem: not null }) status = Attempt();
            if (status.Problem is { } problem) throw new DllNotFoundException(problem);
        }
    }

    [ModuleInitializer]
    [SuppressMessage("Usage", "CA2255", Justification = "TorchSharp must find the libraries loaded, whichever member is used first.")]
    internal static void Initialize()
    {
        ProcessTuning.Apply();
        _ = Status;
    }

    private static LibTorchStatus Attempt()
    {
        var status = new LibTorchStatus(null, null, null, false, null);
        try
        {
            if (OperatingSystem.IsLinux()) status = Preload(status);

            // The first use of the class torch makes TorchSharp look for the libraries.
            torch.InitializeDeviceType(DeviceType.CPU);
            return status with { Version = torch.NormalizeNuGetVersion(torch.__version__) };
        }
        catch (Exception e) when (e is DllNotFoundException or TypeInitializationException or IOException)
        {
            return status with { Problem = e.InnerException is NotSupportedException inner ? inner.Message : e.Message };
        }
    }

    // TorchSharp looks the libraries up by name. The dynamic linker answers with a loaded library of that name, wherever it came from.
    private static LibTorchStatus Preload(LibTorchStatus status)
    {
        string directory = FindFolderOf("libtorch_cpu.so") ?? LibTorchPackage.FindIn(LibTorchPackage.Cache) ?? LibTorchPackage.FindIn(UserCache.Find("packages"))
            ?? throw new DllNotFoundException($"LibTorch {LibTorchPackage.Version} is not part of this program: {LibTorchPackage.Remedy}");
        string binding = Path.Combine(FindFolderOf(Binding) ?? throw new DllNotFoundException($"{Binding} of the package TorchSharp is not part of this program"), Binding);
        NativeLibrary.Load(Path.Combine(directory, "libtorch.so"));
        status = status with { Directory = directory, Binding = binding };
        try
        {
            NativeLibrary.Load(binding);
            return status;
        }
        catch (DllNotFoundException e) when (e.Message.Contains(GlibcxxRewrite.MissingVersion, StringComparison.Ordinal))
        {
            return status with { Binding = LoadRewritten(binding), Rewritten = true };
        }
    }

    private static string LoadRewritten(string binding)
    {
        try
        {
            byte[] content = GlibcxxRewrite.Apply(File.ReadAllBytes(binding));
            string path = UserCache.PathOf("native", Convert.ToHexStringLower(SHA256.HashData(content)), Binding);
            if (!File.Exists(path) || !File.ReadAllBytes(path).AsSpan().SequenceEqual(content))
            {
                UserCache.Write(path, content);
            }

            NativeLibrary.Load(path);
            return path;
        }
        catch (Exception e) when (e is DllNotFoundException or InvalidDataException or IOException or UnauthorizedAccessException)
        {
            throw new DllNotFoundException(
                $"{binding} needs version {GlibcxxRewrite.MissingVersion} of libstdc++.so.6, which this system lacks (Debian 13, Ubuntu 24.04, Fedora 38, RHEL 10 and later have it), and no copy could be made to do without: {e.Message}", e);
        }
    }

    private static string? FindFolderOf(string library) =>
        (AppContext.GetData("NATIVE_DLL_SEARCH_DIRECTORIES") as string)?.Split(Path.PathSeparator, StringSplitOptions.RemoveEmptyEntries)
            .FirstOrDefault(folder => File.Exists(Path.Combine(folder, library)));
}
