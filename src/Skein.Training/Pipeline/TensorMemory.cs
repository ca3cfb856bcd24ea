using System.Buffers;
using Skein.Training.Gradients;
using static TorchSharp.torch;

namespace Skein.Training.Pipeline;

/// <summary>The bytes of a contiguous tensor on the CPU, for messages; keeps the tensor's memory alive as long as they are under way.</summary>
internal sealed unsafe class TensorMemory : MemoryManager<byte>
{
    private readonly Tensor tensor;
    private readonly byte* address;
    private readonly int length;

    /// <exception cref="ArgumentException">It has more bytes than a message can.</exception>
    public TensorMemory(Tensor tensor)
    {
        long bytes = tensor.numel() * tensor.ElementSize;
        if (bytes > int.MaxValue) throw new ArgumentException($"a tensor {tensor.dtype}[{string.Join(", ", tensor.shape)}] at a pipeline's boundary has {bytes:N0} bytes, but a message at most {int.MaxValue:N0}: use more micro-batches");
        this.tensor = tensor;
        address = (byte*)BorrowedTensor.Address(tensor);
        length = (int)bytes;
    }

    public override Span<byte> GetSpan() => new(address, length);

    public override MemoryHandle Pin(int elementIndex = 0) => new(address + elementIndex, pinnable: this);

    public override void Unpin() => GC.KeepAlive(tensor);

    protected override void Dispose(bool disposing) { }
}
