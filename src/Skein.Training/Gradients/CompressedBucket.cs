using Skein.Collectives;
using Skein.Training.Compression;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training.Gradients;

/// <summary>A bucket whose average is compressed. The flags and scalars, and whether all gradients are finite, travel by themselves.</summary>
internal sealed class CompressedBucket : GradientBucket
{
    private readonly ProcessGroup group;
    private readonly TaskScheduler inOrder;
    private readonly SharedBuffer<float> buffer;
    private readonly float[] tail;
    private readonly bool[] used;
    private readonly Tensor host;
    private readonly Tensor? onDevice;
    private Task? pending;

    /// <param name="group">The ranks.</param>
    /// <param name="parameters">Of one device, Float32.</param>
    /// <param name="spec">The method; not auto.</param>
    /// <param name="options">What else compression does.</param>
    /// <param name="index">The bucket's number.</param>
    /// <param name="inOrder">Runs averages in the background, one after the other.</param>
    public CompressedBucket(
        ProcessGroup group, IReadOnlyList<NamedParameter> parameters, CompressionSpec spec, CompressionOptions options, int index, TaskScheduler inOrder)
        // A codec whose payload has no zero would give gradients to what lies in between.
        : base(parameters, padded: false)
    {
        Parameter first = parameters[0].Parameter;
        if (first.dtype != ScalarType.Float32) throw new NotSupportedException($"parameter '{parameters[0].Name}' is {first.dtype}; gradients are compressed in Float32");
        this.group = group;
        this.inOrder = inOrder;
        buffer = group.AllocateShared<float>(FlagsOffset);
        buffer.GetSpan().Clear();
        tail = new float[parameters.Count + Scalars + 1];
        used = new bool[parameters.Count];
        host = BorrowedTensor.Create(buffer.Pointer, FlagsOffset, ScalarType.Float32);
        if (first.device_type != DeviceType.CPU) onDevice = zeros(FlagsOffset, ScalarType.Float32, first.device).DetachFromDisposeScope();
        PlaceSlots(onDevice ?? host);
        var places = Parameters.Zip(Offsets, static (parameter, offset) => ParameterPlace.Of(offset, parameter.Parameter.shape));
        Average = new CompressedAverage(group, spec, options, places, FlagsOffset, index);
    }

    public override bool CarriesScalars => true;

    /// <summary>The compression.</summary>
    public CompressedAverage Average { get; }

    /// <summary>Whether the gradients of all ranks were finite; after <see cref="Wait"/>.</summary>
    public bool IsFinite => tail[^1] == 0;

    private protected override float this[long index]
    {
        get => tail[index - FlagsOffset];
        set => tail[index - FlagsOffset] = value;
    }

    public override void AllReduce(bool inBackground)
    {
        if (onDevice is not null) host.copy_(onDevice);
        if (inBackground)
        {
            pending = Task.Factory.StartNew(Run, CancellationToken.None, TaskCreationOptions.None, inOrder);
        }
        else
        {
            // Those in the background have to have made their calls before.
            Task.Factory.StartNew(static () => { }, CancellationToken.None, TaskCreationOptions.None, inOrder).Wait();
            Run();
        }
    }

    public override void Wait()
    {
        pending?.GetAwaiter().GetResult();
        pending = null;
        if (onDevice is not null) onDevice.copy_(host);
    }

    public override void Dispose()
    {
        base.Dispose();
        onDevice?.Dispose();
        host.Dispose();
        buffer.Dispose();
    }

    /// <summary>Writes the state between two steps.</summary>
    public void Save(BinaryWriter writer)
    {
        Average.Save(writer);
        foreach (bool one in used) writer.Write(one);
    }

    /// <summary>Reads what <see cref="Save"/> wrote.</summary>
    /// <exception cref="InvalidDataException">It was of another method or of other parameters.</exception>
    public void Load(BinaryReader reader)
    {
        Average.Load(reader);
        foreach (ref bool one in used.AsSpan()) one = reader.ReadBoolean();
    }

    private void Run()
    {
        bool finite = Average.Average(buffer.GetSpan());
        tail[^1] = finite ? 0 : 1;
        group.AllReduce(tail.AsSpan(), ReduceOperation.Average);
        // What was kept of a parameter comes later, in steps that may not use it.
        for (int i = 0; i < used.Length; i++)
        {
            used[i] |= tail[i] > 0;
            tail[i] = used[i] ? 1 : 0;
        }
    }
}
