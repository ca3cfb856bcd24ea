using static TorchSharp.torch;

namespace Skein.Training;

/// <summary>Remembers the mode of each module of a model, training or evaluation, and puts every one back when it is disposed.</summary>
internal sealed class TrainingModes : IDisposable
{
    // Those that contain others come first, since a module's mode becomes that of its children.
    private readonly (nn.Module Module, bool Training)[] modes;

    private TrainingModes(nn.Module model) =>
        modes = [.. model.modules().Prepend(model).Select(static module => (module, module.training))];

    /// <summary>
    /// Leaves modules as their user has set them if the model is in training mode, and puts all of them into it if the model is in evaluation mode.
    /// </summary>
    public static TrainingModes Train(nn.Module model)
    {
        var modes = new TrainingModes(model);
        if (!model.training) model.train();
        return modes;
    }

    /// <summary>Puts all modules into evaluation mode.</summary>
    public static TrainingModes Evaluate(nn.Module model)
    {
        var modes = new TrainingModes(model);
        model.eval();
        return modes;
    }

    public void Dispose()
    {
        try
        {
            foreach ((nn.Module module, bool training) in modes)
            {
                if (module.training != training) module.train(training);
            }
        }
        catch (ObjectDisposedException)
        {
            // A model that was disposed meanwhile has no modes; the error that its use has led to is what counts.
        }
    }
}
