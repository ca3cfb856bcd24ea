using System.Runtime.InteropServices;
using Skein.Collectives;
using Skein.ParameterServer;

namespace Skein.Benchmarks.ParameterServers;

/// <summary>Values in huge pages that were touched: what a first touch costs is not what is measured here.</summary>
internal sealed unsafe class PinnedFloats : IDisposable
{
    private readonly byte* memory;

    public PinnedFloats(int length, float value = 0)
    {
        Length = length;
        memory = NativePages.Allocate((nint)length * sizeof(float));
        Values.Fill(value);
    }

    public int Length { get; }

    public Span<float> Values => new(memory, Length);

    public Span<byte> Bytes => new(memory, Length * sizeof(float));

    public ParameterMemory[] Parameter => [new ParameterMemory((nint)memory, Length)];

    public void Dispose() => NativeMemory.AlignedFree(memory);
}
