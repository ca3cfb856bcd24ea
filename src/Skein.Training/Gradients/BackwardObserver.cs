using static TorchSharp.torch;

namespace Skein.Training.Gradients;

/// <summary>
/// Tells during a backward pass which buckets are complete. Once it comes to the input of a module
/// (<see cref="BackwardNotice"/>), so it has to everything created after that in the forward pass, gradients of parameters included.
/// </summary>
/// <remarks>
/// That holds because the autograd engine runs, of all nodes that are ready, first those that accumulate parameters'
/// gradients, then the one created last, and no node waits for one that was created before it. So it is enough to
/// number the calls of modules: a parameter is complete once every call of every module that owns it lies at or
/// behind the call whose identity has just run. What is not known to be complete waits for the end of the pass:
/// parameters of modules that were not called through <c>call</c>, or that do not map one tensor to one tensor.
/// </remarks>
internal sealed class BackwardObserver : IDisposable
{
    private const int NotCalled = -1;
    private const int Untracked = int.MinValue;

    private readonly List<Action> unhook = [];
    private readonly Action<int> reached;
    private readonly int[] firstCall;
    private readonly int[][] owners;
    private int calls;
    private int generation;

    /// <param name="model">The model to observe.</param>
    /// <param name="buckets">The parameters of each bucket, which complete roughly in this order.</param>
    /// <param name="reached">Called in the backward pass with the number of a call; must not throw.</param>
    public BackwardObserver(nn.Module model, IReadOnlyList<GradientBucket> buckets, Action<int> reached)
    {
        this.reached = reached;
        nn.Module[] modules = [.. model.named_modules().Select(static entry => entry.module).Append(model).Distinct(ReferenceEqualityComparer.Instance).Cast<nn.Module>()];
        firstCall = new int[modules.Length];
        var ownersOf = new Dictionary<Tensor, List<int>>(ModelParameters.Identity);
        for (int i = 0; i < modules.Length; i++)
        {
            foreach ((_, var parameter) in modules[i].named_parameters(recurse: false))
            {
                if (!ownersOf.TryGetValue(parameter, out List<int>? list)) ownersOf[parameter] = list = [];
                list.Add(i);
            }
        }

        owners = [.. buckets.Select(bucket => bucket.Parameters
            .SelectMany(parameter => ownersOf.GetValueOrDefault(parameter.Parameter, [])).Distinct().ToArray())];
        HashSet<int> tracked = [.. owners.SelectMany(static list => list)];
        // The module whose backward comes last in a bucket; the last bucket is sent after the pass in any case.
        HashSet<int> boundaries = [.. buckets.SkipLast(1).SelectMany(bucket => ownersOf.GetValueOrDefault(bucket.Parameters[^1].Parameter, []))];
        // A module with children may change its input in place, which the identity's output does not allow.
        foreach (int index in tracked) Hook(modules[index], index, boundaries.Contains(index) && !modules[index].children().Any());
        Reset();
    }

    /// <summary>Starts a new forward pass: earlier calls, and backward passes through them, count no more.</summary>
    public void Reset()
    {
        calls = 0;
        generation++;
        for (int i = 0; i < firstCall.Length; i++)
        {
            if (firstCall[i] != Untracked) firstCall[i] = NotCalled;
        }
    }

    /// <summary>Whether every gradient of bucket <paramref name="bucket"/> is there once the backward pass has reached <paramref name="call"/>.</summary>
    public bool IsComplete(int bucket, int call)
    {
        foreach (int owner in owners[bucket])
        {
            if (firstCall[owner] < call) return false;
        }

        return owners[bucket].Length > 0;
    }

    public void Dispose()
    {
        foreach (Action remove in unhook) remove();
        unhook.Clear();
    }

    private void Hook(nn.Module module, int index, bool boundary)
    {
        if (module is not nn.Module<Tensor, Tensor> mapping)
        {
            firstCall[index] = Untracked;
            return;
        }

        var remover = mapping.register_forward_pre_hook((_, input) => Called(index, boundary, input));
        unhook.Add(remover.remove);
    }

    private Tensor Called(int index, bool boundary, Tensor input)
    {
        if (!is_grad_enabled()) return input;
        int call = calls++;
        if (firstCall[index] == NotCalled) firstCall[index] = call;
        if (!boundary || !input.requires_grad) return input;
        int current = generation;
        return BackwardNotice.At(input, () =>
        {
            if (current == generation) reached(call);
        });
    }
}
