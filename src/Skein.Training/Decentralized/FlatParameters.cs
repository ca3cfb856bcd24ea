using Skein.Training.Gradients;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training.Decentralized;

/// <summary>A model's trained parameters as one vector of float32 on the host, in the order of the model. Not thread-safe.</summary>
internal sealed class FlatParameters
{
    private readonly Parameter[] parameters;

    public FlatParameters(nn.Module model)
    {
        parameters = ModelParameters.Trainable(model);
        Length = checked((int)parameters.Sum(static parameter => parameter.numel()));
    }

    public int Length { get; }

    /// <summary>Whether it is still these parameters that are trained.</summary>
    public bool AreThoseOf(nn.Module model) => ModelParameters.Trainable(model).SequenceEqual(parameters, ModelParameters.Identity);

    /// <summary>A vector that neither moves nor is collected while it is referenced, as <see cref="Read"/> and <see cref="Write"/> need.</summary>
    public float[] NewVector() => GC.AllocateArray<float>(Length, pinned: true);

    /// <summary>Copies the parameters into <paramref name="vector"/>.</summary>
    public void Read(float[] vector) => Visit(vector, static (view, parameter) => view.copy_(parameter));

    /// <summary>Copies <paramref name="vector"/> into the parameters.</summary>
    public void Write(float[] vector) => Visit(vector, static (view, parameter) => parameter.copy_(view));

    /// <summary>Adds <paramref name="vector"/> to the parameters.</summary>
    public void Add(float[] vector) => Visit(vector, static (view, parameter) => parameter.add_(view.to(parameter.device)));

    private unsafe void Visit(float[] vector, Action<Tensor, Parameter> action)
    {
        ArgumentOutOfRangeException.ThrowIfNotEqual(vector.Length, Length);
        using DisposeScope scope = NewDisposeScope();
        using var noGradient = no_grad();
        fixed (float* address = vector)
        {
            using Tensor flat = BorrowedTensor.Create((nint)address, vector.Length, ScalarType.Float32);
            long offset = 0;
            foreach (Parameter parameter in parameters)
            {
                action(flat.narrow(0, offset, parameter.numel()).view(parameter.shape), parameter);
                offset += parameter.numel();
            }
        }
    }
}
