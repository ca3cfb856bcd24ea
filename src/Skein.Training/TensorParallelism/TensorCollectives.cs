using System.Diagnostics;
using Skein.Collectives;
using Skein.Training.Gradients;
using TorchSharp;
using static TorchSharp.torch;

namespace Skein.Training.TensorParallelism;

/// <summary>
/// Collectives whose arguments are tensors of any device: they pass through one piece of host memory that the ranks share. Every rank
/// calls them in the same order, with tensors of the same shape and type but for what is said. Not thread-safe.
/// </summary>
internal sealed unsafe class TensorCollectives(ProcessGroup group) : IDisposable
{
    private SharedBuffer<byte>? staging;

    public int Rank => group.Rank;

    public int WorldSize => group.WorldSize;

    /// <summary>How long they have taken.</summary>
    public TimeSpan Time { get; private set; }

    /// <summary>The sum over the ranks, bitwise the same on all of them.</summary>
    public Tensor AllReduce(Tensor input)
    {
        using DisposeScope scope = NewDisposeScope();
        Tensor sum = Stage(scope, input.numel(), input.dtype).view(input.shape);
        sum.copy_(input);
        Reduce(sum, ReduceOperation.Sum);
        return sum.to(input.device, copy: true).MoveToOuterDisposeScope();
    }

    /// <summary>The same in place, of contiguous memory.</summary>
    public void AllReduceInPlace(Tensor tensor, ReduceOperation operation = ReduceOperation.Sum)
    {
        if (tensor.device_type == DeviceType.CPU)
        {
            Reduce(tensor, operation);
            return;
        }

        using DisposeScope scope = NewDisposeScope();
        Tensor host = Stage(scope, tensor.numel(), tensor.dtype).view(tensor.shape);
        host.copy_(tensor);
        Reduce(host, operation);
        tensor.copy_(host);
    }

    /// <summary>
    /// The ranks' parts one after the other along a dimension, whose whole length is <paramref name="length"/>: where it does not
    /// divide, the first ranks' parts are one longer.
    /// </summary>
    public Tensor AllGather(Tensor part, long dimension, long length)
    {
        using DisposeScope scope = NewDisposeScope();
        long[] shape = part.shape;
        dimension = dimension < 0 ? dimension + shape.Length : dimension;
        long others = part.numel() / shape[dimension];
        var counts = new int[WorldSize];
        for (int rank = 0; rank < counts.Length; rank++)
        {
            counts[rank] = checked((int)(others * Partition.Length(length, counts.Length, rank) * part.ElementSize));
        }

        Tensor host = part.contiguous().cpu();
        Tensor all = Stage(scope, others * length, part.dtype);
        Measure(() => group.AllGather(Span<byte>(host), Span<byte>(all), counts));
        var parts = new Tensor[WorldSize];
        long start = 0;
        for (int rank = 0; rank < parts.Length; rank++)
        {
            shape[dimension] = Partition.Length(length, parts.Length, rank);
            parts[rank] = all.narrow(0, start, others * shape[dimension]).view(shape);
            start += others * shape[dimension];
        }

        return cat(parts, dimension).to(part.device).MoveToOuterDisposeScope();
    }

    /// <summary>This rank's part, along a dimension that divides by the number of ranks, of the sum over the ranks.</summary>
    public Tensor ReduceScatter(Tensor input, long dimension)
    {
        using DisposeScope scope = NewDisposeScope();
        long[] shape = input.shape;
        long outer = shape.Take((int)dimension).Aggregate(1L, static (product, size) => product * size);
        shape[dimension] /= WorldSize;
        // Each rank's part in one piece.
        Tensor parts = Stage(scope, input.numel(), input.dtype);
        parts.view(WorldSize, outer, -1).copy_(input.reshape(outer, WorldSize, -1).transpose(0, 1));
        Tensor sum = empty(shape, input.dtype);
        Measure(() =>
        {
            switch (input.dtype)
            {
                case ScalarType.Float32: group.ReduceScatter(Span<float>(parts), Span<float>(sum)); break;
                case ScalarType.Float64: group.ReduceScatter(Span<double>(parts), Span<double>(sum)); break;
                case ScalarType.Float16: group.ReduceScatter(Span<Half>(parts), Span<Half>(sum)); break;
                case ScalarType.BFloat16: group.ReduceScatter(Span<Collectives.BFloat16>(parts), Span<Collectives.BFloat16>(sum)); break;
                default: throw Unsupported(input.dtype);
            }
        });
        return sum.to(input.device).MoveToOuterDisposeScope();
    }

    /// <summary>This rank's part of a tensor along a dimension, a view.</summary>
    public Tensor Slice(Tensor whole, long dimension)
    {
        long length = whole.shape[dimension < 0 ? dimension + whole.dim() : dimension];
        return whole.narrow(dimension, Partition.Start(length, WorldSize, Rank), Partition.Length(length, WorldSize, Rank));
    }

    public void Dispose()
    {
        staging?.Dispose();
        staging = null;
    }

    private void Reduce(Tensor memory, ReduceOperation operation) => Measure(() =>
    {
        switch (memory.dtype)
        {
            case ScalarType.Float32: group.AllReduce(Span<float>(memory), operation); break;
            case ScalarType.Float64: group.AllReduce(Span<double>(memory), operation); break;
            case ScalarType.Float16: group.AllReduce(Span<Half>(memory), operation); break;
            case ScalarType.BFloat16: group.AllReduce(Span<Collectives.BFloat16>(memory), operation); break;
            default: throw Unsupported(memory.dtype);
        }
    });

    private void Measure(Action collective)
    {
        long start = Stopwatch.GetTimestamp();
        collective();
        Time += Stopwatch.GetElapsedTime(start);
    }

    // Its memory is the next collective's: nothing of it may be returned.
    private Tensor Stage(DisposeScope scope, long elements, ScalarType type)
    {
        long bytes = elements * type.ElementSize();
        if (bytes > int.MaxValue) throw new NotSupportedException($"a tensor of {bytes} bytes is more than the {int.MaxValue} that one collective carries: use smaller micro-batches");
        if (staging is null || staging.Length < bytes)
        {
            int longer = (int)Math.Min(int.MaxValue, Math.Max(bytes, 2L * (staging?.Length ?? 0)));
            staging?.Dispose();
            staging = group.AllocateShared<byte>(longer);
        }

        Tensor view = BorrowedTensor.Create(staging.Pointer, elements, type);
        scope.Attach(view);
        return view;
    }

    private static Span<T> Span<T>(Tensor tensor) where T : unmanaged =>
        new((void*)BorrowedTensor.Address(tensor), checked((int)(tensor.numel() * tensor.ElementSize / sizeof(T))));

    private static NotSupportedException Unsupported(ScalarType type) =>
        new($"tensor parallelism sums tensors of {type} over the ranks, but only Float32, Float64, Float16 and BFloat16 can be: convert the model with model.to(ScalarType.Float32)");
}
