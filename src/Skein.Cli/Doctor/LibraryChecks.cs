using System.Runtime.InteropServices;
using Skein.Training.LibTorch;

namespace Skein.Cli.Doctor;

/// <summary>Native libraries, each loaded to see whether it is usable.</summary>
internal static class LibraryChecks
{
    private static readonly string[] MpiNames = ["libmpi.so.40", "libmpi.so"];

    public static Finding LibTorch()
    {
        const string Name = "libtorch";
        var status = NativeLibTorch.Status;
        if (status is { Problem: not null, Directory: null } && LibTorchPackage.Name is not null)
        {
            return Finding.Failed(Name, $"{LibTorchPackage.Version} is not here", "skein doctor --fix brings it (128 MB), and so does the first training");
        }

        if (status.Problem is { } problem) return Finding.Failed(Name, "cannot be loaded", problem);
        var way = status.Rewritten ? "with a rewritten binding, since this system's libstdc++ is older than GCC 13's" : "as shipped";
        return Finding.Ok(Name, $"{status.Version}, {way} ({status.Directory ?? "found by TorchSharp"})");
    }

    public static Finding Gpu() =>
        NativeLibrary.TryLoad("libcuda.so.1", out _)
            ? Finding.Ok("gpu", "NVIDIA's driver is present; training on it needs the CUDA package of LibTorch")
            : Finding.Absent("gpu", "no NVIDIA driver", "training uses the CPU; for --device cuda install NVIDIA's driver");

    public static Finding Mpi()
    {
        const string Name = "mpi";
        return Array.Find(MpiNames, name => NativeLibrary.TryLoad(name, out _)) is { } loaded
            ? Finding.Ok(Name, $"{loaded} can be loaded")
            : Finding.Absent(Name, "libmpi.so cannot be loaded", "only for --transport mpi: apt-get install openmpi-bin libopenmpi-dev");
    }
}
