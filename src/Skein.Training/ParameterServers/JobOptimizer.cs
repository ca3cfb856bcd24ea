using System.Globalization;
using Skein.ParameterServer;
using Skein.Training.Gradients;
using TorchSharp.Modules;
using static TorchSharp.torch;
using Adagrad = TorchSharp.Modules.Adagrad;

namespace Skein.Training.ParameterServers;

/// <summary>
/// The optimizer of a job's servers as one of torch: a <see cref="Trainer"/> is to have it too, so that its program means the same in
/// one process. Of its settings only the learning rate is taken from the trainer's.
/// </summary>
public static class JobOptimizer
{
    /// <summary>Makes torch's optimizer of that kind and those settings.</summary>
    /// <param name="job">What the servers run (<see cref="JobSettings.Optimizer"/>).</param>
    /// <param name="parameters">The model's parameters that require a gradient.</param>
    /// <param name="learningRate">The step size, at least 0.</param>
    public static optim.Optimizer Create(ServerOptimizerOptions job, IEnumerable<Parameter> parameters, double learningRate)
    {
        ArgumentNullException.ThrowIfNull(job);
        ArgumentNullException.ThrowIfNull(parameters);
        return job.Kind switch
        {
            ServerOptimizerKind.Sgd => optim.SGD(parameters, learningRate, weight_decay: job.WeightDecay),
            ServerOptimizerKind.Momentum => optim.SGD(parameters, learningRate, momentum: job.Momentum, weight_decay: job.WeightDecay),
            ServerOptimizerKind.Adam => optim.Adam(
                parameters, learningRate, job.Beta1, job.Beta2, job.Epsilon, weight_decay: job.WeightDecay, amsgrad: job.AmsGrad),
            ServerOptimizerKind.Adagrad => optim.Adagrad(parameters, learningRate, weight_decay: job.WeightDecay, eps: job.Epsilon),
            _ => throw new ArgumentOutOfRangeException(nameof(job), job.Kind, "there is no such optimizer"),
        };
    }

    /// <summary>Refuses an optimizer that in one process would update otherwise than the servers do.</summary>
    /// <param name="optimizer">The trainer's.</param>
    /// <param name="job">What the servers run.</param>
    /// <param name="parameters">What they update, by name.</param>
    /// <exception cref="InvalidOperationException">It is another one, or is over other parameters; says what to do.</exception>
    internal static void Check(
        optim.Optimizer optimizer, ServerOptimizerOptions job, IReadOnlyList<(string Name, Parameter Parameter)> parameters)
    {
        ParamGroup[] groups = [.. optimizer.ParamGroups.OfType<ParamGroup>()];
        HashSet<nint> optimized = [.. groups.SelectMany(static group => group.Parameters).Select(BorrowedTensor.Address)];
        if (parameters.FirstOrDefault(entry => !optimized.Contains(BorrowedTensor.Address(entry.Parameter))) is { Name: { } missing })
        {
            throw new InvalidOperationException(
                $"the Trainer's optimizer leaves out the parameter '{missing}', which the servers would update as it requires a gradient: "
                + "freeze it (requires_grad = false), or give it to the optimizer too");
        }

        foreach (ParamGroup group in groups)
        {
            (string name, string? obstacle) = Describe(group);
            if (obstacle is not null)
            {
                throw new InvalidOperationException(
                    $"the Trainer's optimizer is {name} {obstacle}, which parameter servers do not have, and the servers of this job run "
                    + $"{job}: give the Trainer {job} too, or start the job with another --server-optimizer (sgd, momentum, adam, "
                    + "amsgrad or adagrad) that both have");
            }

            if (name != job.ToString())
            {
                throw new InvalidOperationException(
                    $"the Trainer's optimizer is {name}, but the servers of this job run {job}: "
                    + $"start the job with --server-optimizer {name}, or give the Trainer {job} (JobOptimizer.Create makes it)");
            }
        }
    }

    /// <summary>The one learning rate of all parameter groups.</summary>
    /// <exception cref="InvalidOperationException">They have different ones.</exception>
    internal static double LearningRate(optim.Optimizer optimizer)
    {
        double[] rates = [.. optimizer.ParamGroups.Select(static group => group.LearningRate).Distinct()];
        return rates.Length == 1
            ? rates[0]
            : throw new InvalidOperationException(
                $"the parameter groups of the Trainer's optimizer have learning rates of {string.Join(" and ", rates.Select(Text))}, "
                + "but parameter servers have one for all parameters: give the groups the same, or use another strategy");
    }

    // What servers cannot do is named apart.
    private static (string Name, string? Obstacle) Describe(ParamGroup group) => group switch
    {
        ParamGroup<SGD.Options> { Options: var sgd } => (
            new ServerOptimizerOptions
            {
                Kind = sgd.momentum is > 0 ? ServerOptimizerKind.Momentum : ServerOptimizerKind.Sgd,
                Momentum = sgd.momentum ?? 0,
                WeightDecay = sgd.weight_decay ?? 0,
            }.ToString(),
            sgd.maximize == true ? "that maximizes"
                : sgd.nesterov == true ? "with Nesterov's momentum"
                : sgd.dampening is > 0 and var damped ? $"with dampening {Text(damped)}" : null),
        ParamGroup<Adam.Options> { Options: var adam } => (
            OfAdam(adam.beta1, adam.beta2, adam.eps, adam.amsgrad, adam.weight_decay),
            adam.maximize == true ? "that maximizes" : null),
        ParamGroup<AdamW.Options> { Options: var adamW } => (
            OfAdam(adamW.beta1, adamW.beta2, adamW.eps, adamW.amsgrad, 0),
            adamW.maximize == true ? "that maximizes"
                : adamW.weight_decay is > 0 and var decay ? $"with a decoupled weight decay of {Text(decay)} (AdamW)" : null),
        ParamGroup<Adagrad.Options> { Options: var adagrad } => (
            new ServerOptimizerOptions
            {
                Kind = ServerOptimizerKind.Adagrad,
                Epsilon = adagrad.eps ?? 1e-10,
                WeightDecay = adagrad.weight_decay ?? 0,
            }.ToString(),
            adagrad.lr_decay is > 0 and var falling ? $"whose learning rate decays by {Text(falling)}"
                : adagrad.initial_accumulator_value is > 0 and var initial ? $"whose sums begin at {Text(initial)}" : null),
        _ => (group.GetType().DeclaringType?.Name ?? group.GetType().Name, "(an optimizer of its own kind)"),
    };

    private static string OfAdam(
        double? beta1, double? beta2, double? epsilon, bool? amsgrad, double? weightDecay) => new ServerOptimizerOptions
        {
            Kind = ServerOptimizerKind.Adam,
            Beta1 = beta1 ?? 0.9,
            Beta2 = beta2 ?? 0.999,
            Epsilon = epsilon ?? 1e-8,
            AmsGrad = amsgrad ?? false,
            WeightDecay = weightDecay ?? 0,
        }.ToString();

    private static string Text(double value) => value.ToString(CultureInfo.InvariantCulture);
}
