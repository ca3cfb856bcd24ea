using System.Runtime.InteropServices;
using Skein.Collectives;
using Skein.Training.Gradients;
using TorchSharp;
using static TorchSharp.torch;

namespace Skein.Training.Sharding;

/// <summary>
/// The memory in which all of a unit's parameters lie one after the other. On the CPU its pages can be given back while
/// tensors over it live on, so that graphs keep their saved parameters, and be filled again at the same address.
/// </summary>
internal sealed unsafe class UnitMemory : IDisposable
{
    private readonly nint bytes;
    private byte* pages;

    /// <param name="length">Elements.</param>
    /// <param name="type">Their type.</param>
    /// <param name="device">Where the model is.</param>
    public UnitMemory(long length, ScalarType type, Device device)
    {
        bytes = checked((nint)(length * type.ElementSize()));
        pages = NativePages.Reserve(bytes);
        Bytes = As<byte>();
        Host = BorrowedTensor.Create((nint)pages, length, type);
        Flat = device.type == DeviceType.CPU ? Host : empty(length, type, device).DetachFromDisposeScope();
    }

    /// <summary>Where ranks exchange it.</summary>
    public SharedBuffer<byte> Bytes { get; }

    /// <summary>The same as a tensor.</summary>
    public Tensor Host { get; }

    /// <summary>What the model's parameters are views of.</summary>
    public Tensor Flat { get; }

    /// <summary>The same as elements of another type, valid as long as this.</summary>
    public SharedBuffer<T> As<T>() where T : unmanaged => new((nint)pages, checked((int)(bytes / sizeof(T))), null);

    /// <summary>Brings what was received to where the model is.</summary>
    public void Publish()
    {
        if (ReferenceEquals(Host, Flat)) return;
        Flat.copy_(Host);
        Release();
    }

    /// <summary>Gets pages that were freed, to be written.</summary>
    public void Populate() => NativePages.Populate(pages, bytes);

    /// <summary>Frees the pages until they are written again; tensors over them must not be read in between.</summary>
    public void Release() => NativePages.Release(pages, bytes);

    public void Dispose()
    {
        if (pages is null) return;
        if (!ReferenceEquals(Host, Flat)) Flat.Dispose();
        Host.Dispose();
        NativeMemory.AlignedFree(pages);
        pages = null;
    }
}
