using System.Runtime.InteropServices;
using System.Runtime.Intrinsics.X86;

namespace Skein.Cli.Doctor;

/// <summary>The machine itself.</summary>
internal static class MachineChecks
{
    private const string HugePagesFile = "/sys/kernel/mm/transparent_hugepage/enabled";

    public static Finding Runtime() =>
        Finding.Ok("runtime", $"{RuntimeInformation.FrameworkDescription} on {RuntimeInformation.OSDescription}, {RuntimeInformation.ProcessArchitecture}");

    public static Finding Processor()
    {
        (string Name, bool Has)[] features =
        [
            ("SSE4.2", Sse42.IsSupported), ("AVX2", Avx2.IsSupported), ("FMA", Fma.IsSupported), ("AVX-512", Avx512F.IsSupported),
            ("NEON", System.Runtime.Intrinsics.Arm.AdvSimd.IsSupported),
        ];
        var present = string.Join(", ", features.Where(feature => feature.Has).Select(feature => feature.Name));
        return Finding.Ok("cpu", $"{Environment.ProcessorCount} cores; {(present.Length > 0 ? present : "no SIMD known to this check")}");
    }

    public static Finding HugePages()
    {
        const string Name = "huge pages";
        var text = File.Exists(HugePagesFile) ? File.ReadAllText(HugePagesFile).Trim() : "not known to this kernel";
        return text.Contains("[always]", StringComparison.Ordinal) || text.Contains("[madvise]", StringComparison.Ordinal)
            ? Finding.Ok(Name, text)
            : Finding.Absent(Name, text, $"faster first use of memory: echo madvise > {HugePagesFile}");
    }
}
