using System.Text;

namespace Skein.ParameterServer;

/// <summary>Hashes that are the same in every process and version, as processes place data by them. Thread-safe.</summary>
internal static class StableHash
{
    /// <summary>FNV-1a (Fowler, Noll and Vo) of the UTF-8 text, mixed, so that names that differ in their end differ in all bits.</summary>
    public static ulong Of(string text)
    {
        ulong hash = 0xCBF2_9CE4_8422_2325;
        foreach (byte value in Encoding.UTF8.GetBytes(text)) hash = (hash ^ value) * 0x100_0000_01B3;
        return Mix(hash);
    }

    /// <summary>SplitMix64 (Steele et al. 2014): a bijection after which neighbours are far apart.</summary>
    public static ulong Mix(ulong value)
    {
        value += 0x9E37_79B9_7F4A_7C15;
        value = (value ^ (value >> 30)) * 0xBF58_476D_1CE4_E5B9;
        value = (value ^ (value >> 27)) * 0x94D0_49BB_1331_11EB;
        return value ^ (value >> 31);
    }
}
