using Skein.Collectives;
using Skein.Training.Gradients;
using Skein.Training.Optimizers;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training.Sharding;

/// <summary>
/// Parameters that are gathered and whose gradients are reduced as one: laid out one after the other, padded to a multiple
/// of the ranks, and cut into equal shards (Zhao et al. 2023, "PyTorch FSDP", section 3.2). This rank's shard is a parameter
/// of its own in single precision, which the optimizer updates.
/// </summary>
internal sealed class ShardedUnit : IDisposable
{
    // Each parameter, and each shard, starts on a cache line whatever the element type.
    private const int Alignment = 64;

    private readonly ProcessGroup group;
    private readonly List<(Parameter Parameter, long Offset)> places = [];
    private readonly UnitMemory memory;
    private readonly Tensor ownPart;

    // The parameters, their values in the memory, and what they are while these are not there.
    private readonly Tensor[] parameters;
    private readonly Tensor[] values;
    private readonly Tensor[] withheld;

    // Kept between steps: what is freed and allocated in each of them tears the heap into pieces.
    private Tensor? gradient;
    private readonly bool freesParameters;
    private readonly bool shardIsOwnPart;
    private CollectiveHandle? gathering;
    private bool isFirstReduction;

    /// <summary>Takes the parameters' present values, equal on all ranks.</summary>
    /// <param name="group">The ranks.</param>
    /// <param name="name">For messages.</param>
    /// <param name="parameters">Of one element type and device, all trained or all frozen.</param>
    /// <param name="options">What is divided.</param>
    public ShardedUnit(ProcessGroup group, string name, IReadOnlyList<NamedParameter> parameters, ShardedOptions options)
    {
        this.group = group;
        Name = name;
        Parameters = parameters;
        freesParameters = options.Stage == ZeroStage.Parameters;
        Parameter first = parameters[0].Parameter;
        long length = 0;
        foreach (NamedParameter entry in parameters)
        {
            places.Add((entry.Parameter, length));
            length += RoundUp(entry.Parameter.numel(), Alignment / entry.Parameter.ElementSize);
        }

        ShardLength = RoundUp((length + group.WorldSize - 1) / group.WorldSize, Alignment / first.ElementSize);
        Length = ShardLength * group.WorldSize;
        if (Length * first.ElementSize > int.MaxValue) throw new NotSupportedException($"the unit '{name}' has {Length * first.ElementSize} bytes; at most {int.MaxValue} can be gathered at once: choose smaller units with ShardedOptions.Units");

        using DisposeScope scope = NewDisposeScope();
        using var noGradient = no_grad();
        memory = new UnitMemory(Length, first.dtype, first.device);
        memory.Flat.zero_();
        ownPart = memory.Flat.narrow(0, group.Rank * ShardLength, ShardLength).DetachFromDisposeScope();
        this.parameters = [.. places.Select(static place => place.Parameter)];
        values = [.. places.Select(place => memory.Flat.narrow(0, place.Offset, place.Parameter.numel()).view(place.Parameter.shape).DetachFromDisposeScope())];
        withheld = freesParameters ? [.. this.parameters.Select(static parameter => ParameterData.Withheld(parameter))] : [];
        foreach ((Tensor parameter, Tensor value) in this.parameters.Zip(values))
        {
            value.copy_(parameter);
            parameter.set_(value);
        }

        shardIsOwnPart = !freesParameters && first.dtype == ScalarType.Float32 && !(options.OffloadOptimizer && first.device_type != DeviceType.CPU);
        Tensor shard = shardIsOwnPart ? ownPart : ownPart.to(ScalarType.Float32, options.OffloadOptimizer ? CPU : first.device, copy: true);
        Shard = (Parameter)new Parameter(shard).DetachFromDisposeScope();
        LookAtTrained();
        Release();
    }

    /// <summary>For messages.</summary>
    public string Name { get; }

    /// <summary>The parameters in the order of the memory.</summary>
    public IReadOnlyList<NamedParameter> Parameters { get; }

    /// <summary>Elements, padding included.</summary>
    public long Length { get; }

    /// <summary>Elements of each rank's shard.</summary>
    public long ShardLength { get; }

    /// <summary>What this rank updates, if the unit is trained.</summary>
    public Parameter Shard { get; }

    /// <summary>Whether the parameters require gradients; if not, the shard has none either.</summary>
    public bool IsTrained { get; private set; }

    /// <summary>Whether the parameters are to keep their values, whoever releases them.</summary>
    public bool IsHeld { get; set; }

    /// <summary>Whether the backward pass has come to a module of the unit since this was last set to false.</summary>
    public bool HasBegunBackward { get; set; }

    /// <summary>Whether a parameter has a gradient.</summary>
    public bool HasGradients => places.Any(static place =>
    {
        using Tensor? present = place.Parameter.grad;
        return present is not null;
    });

    /// <summary>Whether the parameters have their values.</summary>
    public bool IsGathered { get; private set; } = true;

    /// <summary>Whether the gradients have been reduced since the backward pass began.</summary>
    public bool IsReduced { get; set; }

    /// <summary>Begins to collect all shards, if they are not there; in the background for <see cref="Gather"/> to wait for, or at once.</summary>
    public void StartGather(bool inBackground)
    {
        if (IsGathered || gathering is not null) return;
        memory.Populate();
        FillOwnPart();
        if (inBackground) gathering = group.AllGatherAsync<byte>(OwnBytes(), memory.Bytes.Memory);
        else Exchange();
    }

    /// <summary>Gives the parameters their values.</summary>
    public void Gather()
    {
        if (IsGathered) return;
        StartGather(inBackground: false);
        if (gathering is null) return;
        gathering.Wait();
        gathering = null;
        Publish();
    }

    /// <summary>Frees the parameters' memory until the next <see cref="Gather"/>.</summary>
    public void Release()
    {
        // Whoever was to use what is under way did not come.
        if (gathering is not null) Gather();
        if (!freesParameters || !IsGathered || IsHeld) return;
        ParameterData.Exchange(parameters, withheld);
        memory.Release();
        IsGathered = false;
    }

    /// <summary>Looks which parameters are trained now.</summary>
    /// <exception cref="InvalidOperationException">Some are and some are not; names one of each.</exception>
    public void LookAtTrained()
    {
        NamedParameter[] trained = [.. Parameters.Where(static entry => entry.Parameter.requires_grad)];
        if (trained.Length > 0 && trained.Length < Parameters.Count)
        {
            string frozen = Parameters.First(static entry => !entry.Parameter.requires_grad).Name;
            throw new InvalidOperationException(
                $"'{trained[0].Name}' is trained and '{frozen}' is not, but they were divided as one, since they were alike when the model was attached: " +
                "freeze and unfreeze them together, or before that");
        }

        IsTrained = trained.Length > 0;
    }

    /// <summary>The shard takes what was put into the parameters since it was last rounded into them; while they have their values.</summary>
    public void TakeChanges()
    {
        if (IsGathered && !shardIsOwnPart) MasterWeights.TakeChanges(Shard, ownPart);
    }

    /// <summary>After the optimizer's step: the parameters take what the shards have become.</summary>
    public void TakeUpdate()
    {
        Release();
        if (freesParameters || !IsTrained) return;
        FillOwnPart();
        Exchange();
    }

    /// <summary>Copies the same range of every rank's shard out of the parameters' gradients, one after the other.</summary>
    /// <param name="target">[ranks · (end - start)], single precision, on the host.</param>
    /// <param name="start">Where the range begins in each shard.</param>
    /// <param name="end">Where it ends.</param>
    public void CopyGradients(Tensor target, long start, long end)
    {
        for (int rank = 0; rank < group.WorldSize; rank++)
        {
            long origin = (rank * ShardLength) + start, limit = origin + end - start, filled = origin;
            foreach ((Parameter parameter, long offset) in places)
            {
                long from = Math.Max(offset, origin), to = Math.Min(offset + parameter.numel(), limit);
                if (from >= to) continue;
                using Tensor? gradient = parameter.grad;
                if (gradient is null) continue;
                Clear(filled, from);
                filled = to;
                using Tensor dense = gradient.is_sparse ? gradient.to_dense() : gradient.alias();
                using Tensor flat = dense.reshape(-1);
                using Tensor source = flat.narrow(0, from - offset, to - from);
                using Tensor place = Place(from, to);
                place.copy_(source);
            }

            Clear(filled, limit);

            // Padding, and what has no gradient.
            void Clear(long from, long to)
            {
                if (from == to) return;
                using Tensor place = Place(from, to);
                place.zero_();
            }

            Tensor Place(long from, long to) => target.narrow(0, (rank * (end - start)) + from - origin, to - from);
        }
    }

    /// <summary>Frees the parameters' gradients.</summary>
    public void DropGradients()
    {
        foreach ((Parameter parameter, _) in places) parameter.grad = null;
    }

    /// <summary>Adds reduced gradients to those of the shard, from <paramref name="start"/> on; the parts of a reduction come in order, and make up the shard.</summary>
    public void AddGradient(Tensor part, long start)
    {
        if (start == 0)
        {
            using Tensor? present = Shard.grad;
            isFirstReduction = present is null;
            gradient ??= zeros_like(Shard, requires_grad: false).DetachFromDisposeScope();
            if (isFirstReduction) Shard.grad = gradient;
        }

        using Tensor place = gradient!.narrow(0, start, part.numel());
        if (isFirstReduction)
        {
            place.copy_(part);
        }
        else if (place.device_type == DeviceType.CPU)
        {
            place.add_(part);
        }
        else
        {
            using Tensor there = part.to(place.device);
            place.add_(there);
        }
    }

    /// <summary>The parts of the shard's gradient by the parameter that they belong to.</summary>
    public IEnumerable<(Parameter Parameter, Tensor Gradient)> GradientParts()
    {
        using (Tensor? present = Shard.grad)
        {
            if (present is null) yield break;
        }

        long start = group.Rank * ShardLength;
        foreach ((Parameter parameter, long offset) in places)
        {
            long from = Math.Max(offset, start), to = Math.Min(offset + parameter.numel(), start + ShardLength);
            if (from >= to) continue;
            using Tensor part = gradient!.narrow(0, from - start, to - from);
            yield return (parameter, part);
        }
    }

    /// <summary>The parameters get memory of their own: with their values, or none where those were divided.</summary>
    public void Dispose()
    {
        gathering?.AsTask().ContinueWith(static _ => { }, TaskScheduler.Default).Wait();
        using (var noGradient = no_grad())
        {
            for (int i = 0; i < parameters.Length; i++)
            {
                if (parameters[i].IsInvalid) continue;
                using Tensor own = freesParameters ? withheld[i].alias() : parameters[i].detach().clone();
                ParameterData.Exchange([parameters[i]], [own]);
            }
        }

        Shard.Dispose();
        gradient?.Dispose();
        ownPart.Dispose();
        foreach (Tensor tensor in values.Concat(withheld)) tensor.Dispose();
        memory.Dispose();
    }

    private void Exchange()
    {
        if (group.WorldSize > 1) group.AllGather<byte>(OwnBytes().Span, memory.Bytes.GetSpan());
        Publish();
    }

    private void Publish()
    {
        memory.Publish();
        if (freesParameters && !IsGathered)
        {
            CheckNothingWritten();
            ParameterData.Exchange(parameters, values);
        }

        IsGathered = true;
    }

    private void CheckNothingWritten()
    {
        for (int i = 0; i < withheld.Length; i++)
        {
            if (ParameterData.IsUntouched(withheld[i])) continue;
            throw new InvalidOperationException(
                $"'{Parameters[i].Name}' was written while its values were elsewhere: write to what {nameof(ShardedDataParallel.GatherParameters)} has gathered");
        }
    }

    private void FillOwnPart()
    {
        if (shardIsOwnPart && ReferenceEquals(memory.Host, memory.Flat)) return;
        using Tensor part = memory.Host.narrow(0, group.Rank * ShardLength, ShardLength);
        part.copy_(Shard);
    }

    private Memory<byte> OwnBytes()
    {
        int bytes = memory.Bytes.Length / group.WorldSize;
        return memory.Bytes.Memory.Slice(group.Rank * bytes, bytes);
    }

    private static long RoundUp(long value, long unit) => (value + unit - 1) / unit * unit;
}
