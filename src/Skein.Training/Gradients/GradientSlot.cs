using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training.Gradients;

/// <summary>One parameter's place in a bucket.</summary>
internal sealed class GradientSlot : IDisposable
{
    private readonly Tensor view;
    private readonly nint address;
    private readonly Parameter parameter;

    public GradientSlot(string name, Parameter parameter, Tensor flat, long offset)
    {
        Name = name;
        this.parameter = parameter;
        using Tensor slice = flat.narrow(0, offset, parameter.numel());
        view = slice.view(parameter.shape).DetachFromDisposeScope();
        address = BorrowedTensor.Address(view);
    }

    public string Name { get; }

    /// <summary>Moves the parameter's gradient into the bucket and away from the parameter, so that a later one can be told from it.</summary>
    /// <returns>Whether the parameter had a gradient; the slot is zero if not.</returns>
    public bool Take()
    {
        using Tensor? gradient = parameter.grad;
        if (gradient is null)
        {
            view.zero_();
            return false;
        }

        if (gradient.is_sparse)
        {
            using Tensor dense = gradient.to_dense();
            view.copy_(dense);
        }
        else if (BorrowedTensor.Address(gradient) != address)
        {
            // A loop that zeroes gradients in place makes the backward pass add to the bucket itself: nothing to move then.
            view.copy_(gradient);
        }

        parameter.grad = null;
        return true;
    }

    /// <summary>Hands the averaged gradient to the parameter; without one on any rank the parameter stays without.</summary>
    /// <returns>False when the parameter got another gradient after <see cref="Take"/>.</returns>
    public bool Give(bool anyRankHadOne)
    {
        using Tensor? late = parameter.grad;
        if (late is not null) return false;
        if (anyRankHadOne) parameter.grad = view;
        return true;
    }

    public void Dispose()
    {
        // The parameter may outlive the bucket's memory, so it gets a copy of what it still needs.
        using (Tensor? gradient = parameter.IsInvalid ? null : parameter.grad)
        {
            if (gradient is not null && BorrowedTensor.Address(gradient) == address)
            {
                using Tensor copy = gradient.clone();
                parameter.grad = copy;
            }
        }

        view.Dispose();
    }
}
