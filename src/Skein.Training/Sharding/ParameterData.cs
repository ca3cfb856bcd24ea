using System.Runtime.CompilerServices;
using Skein.Training.Gradients;
using static TorchSharp.torch;

namespace Skein.Training.Sharding;

/// <summary>
/// Exchanges the memory of parameters under graphs that have kept them, as <c>parameter.data = data</c> does in PyTorch. TorchSharp has
/// no such call, and <c>set_</c> would count as a change that a backward pass refuses; the operator is there for TorchScript.
/// </summary>
internal static class ParameterData
{
    // TorchScript's parser needs the end of the last line.
    private static readonly Lazy<jit.CompilationUnit> Script = new(static () => jit.compile(
        """
        def exchange(parameters: List[Tensor], data: List[Tensor]) -> None:
            for i in range(len(parameters)):
                parameters[i].set_data(data[i])

        """));

    /// <summary>Gives each parameter the memory and shape of a tensor.</summary>
    public static void Exchange(Tensor[] parameters, Tensor[] data)
    {
        using var noGradient = no_grad();
        Script.Value.invoke("exchange", parameters, data);
    }

    /// <summary>
    /// A tensor of a shape in the place of values that are elsewhere: NaN wherever it is read, so that nothing that uses it goes unnoticed. All
    /// elements are one in memory, which LibTorch refuses to write but for filling them (<see cref="IsUntouched"/>).
    /// </summary>
    public static Tensor Withheld(Tensor like)
    {
        using Tensor element = full([], float.NaN, like.dtype, like.device);
        return element.expand(like.shape).DetachFromDisposeScope();
    }

    /// <summary>Whether a tensor of <see cref="Withheld"/> on the CPU is NaN still.</summary>
    public static unsafe bool IsUntouched(Tensor withheld)
    {
        void* element = (void*)BorrowedTensor.StorageAddress(withheld);
        return withheld.dtype switch
        {
            ScalarType.Float16 => Half.IsNaN(Unsafe.Read<Half>(element)),
            ScalarType.BFloat16 => float.IsNaN((float)Unsafe.Read<Collectives.BFloat16>(element)),
            _ => float.IsNaN(Unsafe.Read<float>(element)),
        };
    }
}
