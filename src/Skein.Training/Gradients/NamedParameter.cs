using TorchSharp.Modules;

namespace Skein.Training.Gradients;

/// <summary>A parameter under the name it has in the whole model.</summary>
internal readonly record struct NamedParameter(string Name, Parameter Parameter)
{
    public long Bytes => Parameter.numel() * Parameter.ElementSize;
}
