using System.Numerics;
using System.Runtime.InteropServices;
using Skein.ParameterServer;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training.Optimizers;

/// <summary>
/// Adam with decoupled weight decay (Loshchilov and Hutter 2019; without decay it is Adam, Kingma and Ba 2015). Every
/// rank holds the whole state: given the averaged gradients of <see cref="DataParallel"/>, all make the same update
/// and stay bitwise equal. Hyper-parameters, state and results are those of <c>torch.optim.AdamW</c>.
/// </summary>
/// <remarks>
/// For single and double precision on the CPU each parameter is updated in one pass over its memory, where torch
/// makes ten; otherwise, and with AMSGrad, torch's own step runs. Not thread-safe.
/// </remarks>
public sealed class DistributedAdam : AdamW
{
    private readonly bool amsgrad;

    /// <summary>An optimizer over <paramref name="parameters"/>.</summary>
    /// <param name="parameters">The parameters to train.</param>
    /// <param name="learningRate">The step size, at least 0.</param>
    /// <param name="beta1">How much of the gradient's mean is kept in each step, from 0 to below 1.</param>
    /// <param name="beta2">How much of its mean square is kept, from 0 to below 1.</param>
    /// <param name="epsilon">Added to the denominator, at least 0.</param>
    /// <param name="weightDecay">The decoupled decay, at least 0.</param>
    /// <param name="amsgrad">Whether to divide by the largest mean square seen so far (Reddi et al. 2018).</param>
    public DistributedAdam(
        IEnumerable<Parameter> parameters, double learningRate = 1e-3, double beta1 = 0.9, double beta2 = 0.999,
        double epsilon = 1e-8, double weightDecay = 0, bool amsgrad = false)
        : base(parameters?.ToArray() ?? throw new ArgumentNullException(nameof(parameters)), learningRate, beta1, beta2, epsilon, weightDecay, amsgrad) =>
        this.amsgrad = amsgrad;

    /// <inheritdoc/>
    public override Tensor step(Func<Tensor>? closure = null)
    {
        if (amsgrad || !_parameter_groups.SelectMany(static group => group.Parameters).All(IsPlainMemory)) return base.step(closure);
        return _step<ParamGroup>(Update, closure);
    }

    private static bool IsPlainMemory(Parameter parameter) =>
        parameter.device_type == DeviceType.CPU && parameter.dtype is ScalarType.Float32 or ScalarType.Float64
        && parameter.is_contiguous() && parameter.numel() * parameter.ElementSize <= int.MaxValue;

    private void Update(ParamGroup group)
    {
        Options options = group.Options;
        foreach (Parameter parameter in group.Parameters)
        {
            using Tensor? raw = parameter.grad;
            if (raw is null) continue;
            using Tensor gradient = raw.contiguous();
            var state = (State)_state[parameter.Handle];
            state.step++;
            if (parameter.dtype == ScalarType.Float32) Update<float>(parameter, gradient, state, options);
            else Update<double>(parameter, gradient, state, options);
        }
    }

    private static void Update<T>(Parameter parameter, Tensor gradient, State state, Options options) where T : unmanaged, INumberBase<T> =>
        OptimizerKernel.Update(
            new Adam<T>(options.LearningRate!.Value, options.beta1!.Value, options.beta2!.Value, options.eps!.Value, options.weight_decay!.Value, state.step),
            Values<T>(parameter), Values<T>(gradient), Values<T>(state.exp_avg), Values<T>(state.exp_avg_sq));

    private static Span<T> Values<T>(Tensor tensor) where T : unmanaged => MemoryMarshal.Cast<byte, T>(tensor.bytes);
}
