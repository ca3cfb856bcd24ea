using Skein.Collectives;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training.Gradients;

/// <summary>
/// Gradients of several parameters of one element type and device, in one piece of memory that a single all-reduce
/// averages. Behind them come a few more elements that travel along: for each parameter whether this rank has a
/// gradient for it, then what the step has found (see <see cref="SetScalars"/>).
/// </summary>
internal abstract class GradientBucket : IDisposable
{
    /// <summary>The elements that <see cref="SetScalars"/> takes.</summary>
    private protected const int Scalars = 3;

    // Every gradient starts on a cache line, whatever the element type.
    private const int CacheLine = 64;

    private readonly List<GradientSlot> slots = [];
    private readonly long scalarsOffset;

    /// <param name="parameters">Of one element type and device.</param>
    /// <param name="padded">Whether every gradient starts on a cache line; else there is nothing between them.</param>
    private protected GradientBucket(IReadOnlyList<NamedParameter> parameters, bool padded)
    {
        Parameters = parameters;
        var offsets = new long[parameters.Count];
        long end = 0;
        for (int i = 0; i < offsets.Length; i++)
        {
            Parameter parameter = parameters[i].Parameter;
            long unit = padded ? CacheLine / parameter.ElementSize : 1;
            offsets[i] = end;
            end += (parameter.numel() + unit - 1) / unit * unit;
        }

        Offsets = offsets;
        FlagsOffset = checked((int)end);
        scalarsOffset = FlagsOffset + parameters.Count;
    }

    /// <summary>The parameters in the order of the memory.</summary>
    public IReadOnlyList<NamedParameter> Parameters { get; }

    /// <summary>Whether its scalars are precise enough for a loss.</summary>
    public abstract bool CarriesScalars { get; }

    /// <summary>Where each parameter's gradient begins.</summary>
    private protected IReadOnlyList<long> Offsets { get; }

    private protected int FlagsOffset { get; }

    /// <summary>A bucket for <paramref name="parameters"/>. Collective: every rank makes the same buckets in the same order.</summary>
    public static GradientBucket Create(ProcessGroup group, IReadOnlyList<NamedParameter> parameters)
    {
        Parameter first = parameters[0].Parameter;
        return first.dtype switch
        {
            ScalarType.Float32 => new Of<float>(group, parameters, first, static value => value, static value => value),
            ScalarType.Float64 => new Of<double>(group, parameters, first, static value => (float)value, static value => value),
            ScalarType.Float16 => new Of<Half>(group, parameters, first, static value => (float)value, static value => (Half)value),
            ScalarType.BFloat16 => new Of<Collectives.BFloat16>(
                group, parameters, first, static value => (float)value, static value => (Collectives.BFloat16)value),
            _ => throw new NotSupportedException(
                $"parameter '{parameters[0].Name}' is {first.dtype}; gradients are averaged in Float32, Float64, Float16 and BFloat16"),
        };
    }

    /// <summary>Sets what is averaged with the gradients; before <see cref="AllReduce"/>.</summary>
    public void SetScalars(StepOutcome own) =>
        (this[scalarsOffset], this[scalarsOffset + 1], this[scalarsOffset + 2]) = (own.Loss, own.Weight, own.Stop ? 1 : 0);

    /// <summary>The averages, and whether any rank wants to stop; after <see cref="Wait"/>.</summary>
    public StepOutcome GetScalars() => new(this[scalarsOffset], this[scalarsOffset + 2] > 0, this[scalarsOffset + 1]);

    /// <summary>Moves the parameters' gradients into the bucket.</summary>
    public void Take()
    {
        for (int i = 0; i < slots.Count; i++) this[FlagsOffset + i] = slots[i].Take() ? 1 : 0;
    }

    /// <summary>Averages the bucket over the ranks: on the group's thread, or at once on this one.</summary>
    public abstract void AllReduce(bool inBackground);

    /// <summary>Waits for <see cref="AllReduce"/>.</summary>
    public abstract void Wait();

    /// <summary>Hands the averaged gradients to the parameters.</summary>
    /// <exception cref="InvalidOperationException">A parameter got another gradient after <see cref="Take"/>.</exception>
    public void Give()
    {
        for (int i = 0; i < slots.Count; i++)
        {
            if (slots[i].Give(this[FlagsOffset + i] > 0)) continue;
            throw new InvalidOperationException(
                $"parameter '{slots[i].Name}' got a gradient after its bucket had been sent: it is used outside of its own module, " +
                "or backward ran twice in a step. Put all but the last backward of a step in NoSync(), or set DataParallelOptions.Overlap to false");
        }
    }

    /// <inheritdoc/>
    public virtual void Dispose()
    {
        foreach (GradientSlot slot in slots) slot.Dispose();
        slots.Clear();
    }

    private protected abstract float this[long index] { get; set; }

    private protected void PlaceSlots(Tensor flat)
    {
        foreach ((NamedParameter parameter, long offset) in Parameters.Zip(Offsets))
        {
            slots.Add(new GradientSlot(parameter.Name, parameter.Parameter, flat, offset));
        }
    }

    private sealed class Of<T> : GradientBucket where T : unmanaged
    {
        private readonly ProcessGroup group;
        private readonly Func<T, float> read;
        private readonly Func<float, T> write;
        private readonly SharedBuffer<T> buffer;
        private readonly Tensor host;
        private readonly Tensor? onDevice;
        private CollectiveHandle? pending;

        public Of(ProcessGroup group, IReadOnlyList<NamedParameter> parameters, Parameter first, Func<T, float> read, Func<float, T> write)
            : base(parameters, padded: true)
        {
            this.group = group;
            this.read = read;
            this.write = write;
            buffer = group.AllocateShared<T>(FlagsOffset + parameters.Count + Scalars);
            host = BorrowedTensor.Create(buffer.Pointer, FlagsOffset, first.dtype);
            if (first.device_type != DeviceType.CPU) onDevice = empty(FlagsOffset, first.dtype, first.device).DetachFromDisposeScope();
            PlaceSlots(onDevice ?? host);
        }

        public override bool CarriesScalars => typeof(T) == typeof(float) || typeof(T) == typeof(double);

        private protected override float this[long index]
        {
            get => read(buffer.GetSpan()[(int)index]);
            set => buffer.GetSpan()[(int)index] = write(value);
        }

        public override void Wait()
        {
            pending?.Wait();
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

        public override void AllReduce(bool inBackground)
        {
            if (onDevice is not null) host.copy_(onDevice);
            if (inBackground)
            {
                pending = group.AllReduceAsync(buffer.Memory, ReduceOperation.Average);
            }
            else
            {
                group.AllReduce(buffer.GetSpan(), ReduceOperation.Average);
            }
        }
    }
}
