using System.Diagnostics.CodeAnalysis;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Security.Cryptography;
using TorchSharp;

namespace Skein.Training.LibTorch;

/// <summary>Loads LibTorch and TorchSharp's native binding before TorchSharp looks for them itself.</summary>
/// <remarks>
/// On Linux this finds the libraries without copying them, and makes the binding load on systems with GCC 12's libstdc++ (Debian 12,
/// Ubuntu 22.04) by preparing a rewritten copy in the user's cache folder. Where the shipped binding loads, and on
/// other systems, it is used as it is. Loading happens once per process, when the first member of this assembly is used, or at the
/// start of a program that references the package. All members are thread-safe.
/// </remarks>
public static class NativeLibTorch
{
    /// <summary>Key in <c>runtimeconfig.json</c> of the folder of LibTorch, for programs that do not carry their own copy.</summary>
    internal const string DirectoryKey = "Skein.LibTorchDirectory";

    private const string Binding = "libLibTorchSharp.so";

    private static readonly Lazy<LibTorchStatus> Loading = new(Attempt);

    /// <summary>What was loaded from where. Reading it loads LibTorch; it never throws.</summary>
    public static LibTorchStatus Status => Loading.Value;

    /// <summary>Loads LibTorch unless that has happened already.</summary>
    /// <exception cref="DllNotFoundException">LibTorch cannot be used here; the message says why and what to do.</exception>
    public static void Load()
    {
        if (Status.Problem is { } problem)
        {
            throw new DllNotFoundException(problem);
        }
    }

    [ModuleInitializer]
    [SuppressMessage("Usage", "CA2255", Justification = "TorchSharp must find the libraries loaded, whichever member is used first.")]
    internal static void Initialize() => _ = Status;

    private static LibTorchStatus Attempt()
    {
        var status = new LibTorchStatus(null, null, null, false, null);
        try
        {
            if (OperatingSystem.IsLinux())
            {
                KeepFreedMemory();
                status = Preload(status);
            }

            // The first use of the class torch makes TorchSharp look for the libraries.
            torch.InitializeDeviceType(DeviceType.CPU);
            return status with { Version = torch.NormalizeNuGetVersion(torch.__version__) };
        }
        catch (Exception e) when (e is DllNotFoundException or TypeInitializationException)
        {
            return status with { Problem = e.InnerException is NotSupportedException inner ? inner.Message : e.Message };
        }
    }

    // TorchSharp looks the libraries up by name. The dynamic linker answers with a loaded library of that name, wherever it came from.
    private static LibTorchStatus Preload(LibTorchStatus status)
    {
        string directory = FindFolderOf("libtorch_cpu.so")
            ?? throw new DllNotFoundException("LibTorch is not part of this program; add a reference to the package TorchSharp-cpu, or to libtorch-cpu-linux-x64 in the version that TorchSharp was built for");
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

    private static string? FindFolderOf(string library)
    {
        var folders = new List<string>();
        if (AppContext.GetData(DirectoryKey) is string configured)
        {
            folders.Add(configured);
        }

        if (AppContext.GetData("NATIVE_DLL_SEARCH_DIRECTORIES") is string searched)
        {
            folders.AddRange(searched.Split(Path.PathSeparator, StringSplitOptions.RemoveEmptyEntries));
        }

        return folders.Find(folder => File.Exists(Path.Combine(folder, library)));
    }

    // Tensors come and go with every step. By default glibc maps and unmaps large ones each time, and the kernel then hands out every
    // page anew, which costs more than the arithmetic. With these settings freed memory stays in the process and is used again.
    private static void KeepFreedMemory()
    {
        const int trimThreshold = -1;
        const int mmapMax = -4;
        try
        {
            _ = SetAllocatorOption(mmapMax, 0);
            _ = SetAllocatorOption(trimThreshold, int.MaxValue);
        }
        catch (EntryPointNotFoundException)
        {
            // Not glibc: its allocator has no such options.
        }
    }

    [DllImport("libc", EntryPoint = "mallopt")]
    private static extern int SetAllocatorOption(int option, int value);
}
