using System.Runtime.CompilerServices;
using Skein.Training.Gradients;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training;

/// <summary>
/// The parameters of a model, each once. TorchSharp makes a new object for the same parameter at each call of a getter, so that one that
/// layers share (<c>head.weight = embedding.weight</c>) can be in a model several times, under several names.
/// </summary>
internal static unsafe class ModelParameters
{
    /// <summary>Whether two objects are the same parameter; valid until they are disposed.</summary>
    public static IEqualityComparer<Tensor> Identity { get; } = new SameTensor();

    /// <summary>All of them, in the order of the model, under the first of their names.</summary>
    /// <exception cref="InvalidOperationException">Two that are different share memory; names them.</exception>
    public static IReadOnlyList<NamedParameter> Of(nn.Module model)
    {
        NamedParameter[] parameters =
        [
            .. model.named_parameters()
                .Select(static entry => new NamedParameter(entry.name, entry.parameter))
                .DistinctBy(static entry => entry.Parameter, Identity),
        ];
        CheckMemory(parameters);
        return parameters;
    }

    /// <summary>Those that require a gradient.</summary>
    /// <exception cref="InvalidOperationException">Two that are different share memory; names them.</exception>
    public static Parameter[] Trainable(nn.Module model) =>
        [.. Of(model).Select(static entry => entry.Parameter).Where(static parameter => parameter.requires_grad)];

    // A step updates a parameter once; with two over one memory it would be twice, or once and forgotten where one of them moves.
    private static void CheckMemory(NamedParameter[] parameters)
    {
        (nint End, string Name) last = default;
        IEnumerable<(nint Start, nint End, string Name)> places = parameters.Select(Place).Where(static place => place.Start != 0);
        foreach ((nint start, nint end, string name) in places.OrderBy(static place => place.Start))
        {
            if (start < last.End)
            {
                throw new InvalidOperationException(
                    $"the parameters '{last.Name}' and '{name}' are two, but lie in the same memory, so that each step would update it twice: " +
                    "let the layers share one parameter, as in second.weight = first.weight");
            }

            last = (end, name);
        }
    }

    // Between the elements of one that is not contiguous another may lie; then its first element stands for it.
    private static (nint Start, nint End, string Name) Place(NamedParameter entry)
    {
        Parameter parameter = entry.Parameter;
        nint storage = BorrowedTensor.StorageAddress(parameter);
        if (storage == 0 || parameter.numel() == 0) return default;
        nint start = storage + (nint)(parameter.storage_offset() * parameter.ElementSize);
        return (start, start + (nint)(parameter.ElementSize * (parameter.is_contiguous() ? parameter.numel() : 1)), entry.Name);
    }

    private sealed class SameTensor : IEqualityComparer<Tensor>
    {
        public bool Equals(Tensor? x, Tensor? y) => x is null || y is null ? ReferenceEquals(x, y) : Implementation(x) == Implementation(y);

        public int GetHashCode(Tensor obj) => Implementation(obj).GetHashCode();

        // A handle is the address of a smart pointer, whose only member is the address of the tensor.
        private static nint Implementation(Tensor tensor) => Unsafe.Read<nint>((void*)tensor.Handle);
    }
}
