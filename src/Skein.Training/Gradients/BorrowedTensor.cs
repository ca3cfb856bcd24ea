using System.Runtime.InteropServices;
using TorchSharp;
using static TorchSharp.torch;

namespace Skein.Training.Gradients;

/// <summary>Tensors over memory that somebody else owns, which TorchSharp's own factories always copy.</summary>
internal static unsafe class BorrowedTensor
{
    /// <summary>
    /// A one-dimensional CPU tensor over <paramref name="length"/> elements at <paramref name="address"/>. The memory
    /// has to outlive the tensor and every view of it.
    /// </summary>
    public static Tensor Create(nint address, long length, ScalarType type)
    {
        nint handle = THSTensor_new(address, 0, &length, 1, (sbyte)type, (sbyte)type, (int)DeviceType.CPU, -1, 0);
        if (handle == 0) throw new InvalidOperationException($"LibTorch could not make a tensor over {length} elements of {type} at 0x{address:x}");
        return Tensor.UnsafeCreateTensor(handle).DetachFromDisposeScope();
    }

    /// <summary>The address of the first element, on whichever device it is.</summary>
    public static nint Address(Tensor tensor) => THSTensor_data(tensor.Handle);

    /// <summary>The address of the memory that it is a view of; 0 where there is none.</summary>
    public static nint StorageAddress(Tensor tensor) => THSStorage_data_ptr(tensor.Handle);

    [DllImport("LibTorchSharp")]
    private static extern nint THSTensor_new(
        nint data, nint deleter, long* sizes, int dimensions, sbyte scalarType, sbyte dtype, int deviceType, int deviceIndex, byte requiresGradient);

    [DllImport("LibTorchSharp")]
    private static extern nint THSTensor_data(nint tensor);

    [DllImport("LibTorchSharp")]
    private static extern nint THSStorage_data_ptr(nint tensor);
}
