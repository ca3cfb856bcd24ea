using System.Runtime.ExceptionServices;
using static TorchSharp.torch;

namespace Skein.Training.Gradients;

/// <summary>
/// Keeps the first error of what runs inside a backward pass, where an exception would end the process, until the pass is
/// over. Once there is one, nothing more is run: the other ranks are told by the failed group.
/// </summary>
internal sealed class BackwardFailure
{
    private Exception? first;

    /// <summary>Those of a model's modules, each once.</summary>
    public static IReadOnlyList<BackwardFailure> Of(nn.Module model) =>
        [.. model.modules().Prepend(model).OfType<IRunsInBackward>().Select(static module => module.Failure).Distinct()];

    /// <summary>Runs a piece of a backward pass.</summary>
    /// <returns>Whether it ended well; if not, what it was to compute is missing.</returns>
    public bool Run(Action body)
    {
        if (first is not null) return false;
        try
        {
            body();
            return true;
        }
        catch (Exception error)
        {
            first = error;
            return false;
        }
    }

    /// <summary>To be called after a backward pass.</summary>
    public void ThrowIfAny()
    {
        if (first is not null) ExceptionDispatchInfo.Throw(first);
    }
}

/// <summary>A module with code of its own in backward passes, whose errors are to be looked for after them.</summary>
internal interface IRunsInBackward
{
    /// <summary>Where they are kept.</summary>
    BackwardFailure Failure { get; }
}
