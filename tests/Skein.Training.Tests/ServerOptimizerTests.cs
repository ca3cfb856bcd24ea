using Skein.ParameterServer;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training.Tests;

public class ServerOptimizerTests
{
    [Theory]
    [InlineData("sgd")]
    [InlineData("momentum")]
    [InlineData("adam")]
    [InlineData("amsgrad")]
    [InlineData("adagrad")]
    public void Equals_torch_step_by_step(string kind)
    {
        const int Length = 1003;
        using Parameter theirs = Models.Seeded(5, static () => new Parameter(randn(Length)));
        float[] ours = theirs.detach().data<float>().ToArray();
        DenseOptimizer optimizer = DenseOptimizer.Create(ServerOptimizerOptions.Parse(kind), Length);
        using optim.Optimizer reference = kind switch
        {
            "sgd" => optim.SGD([theirs], 0.01),
            "momentum" => optim.SGD([theirs], 0.01, momentum: 0.9),
            "adagrad" => optim.Adagrad([theirs], 0.01),
            _ => optim.Adam([theirs], 0.01, amsgrad: kind == "amsgrad"),
        };
        for (int step = 0; step < 50; step++)
        {
            using var scope = NewDisposeScope();
            // Falling gradients make AMSGrad's maximum differ from the mean square.
            Tensor gradient = Models.Seeded(step, () => randn(Length) / (1 + step));
            theirs.grad = gradient;
            reference.step();
            optimizer.Apply(ours, gradient.data<float>().ToArray(), 0.01f);
        }

        Models.AssertClose(theirs.detach().data<float>().ToArray(), ours, 1e-5, 1e-6);
    }
}
