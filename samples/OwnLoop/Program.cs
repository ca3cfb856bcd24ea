// A loop of one's own over a module of one's own. Four lines make it distributed, marked 1 to 4; the rest is TorchSharp.
using Skein.Collectives;
using Skein.Training;
using Skein.Training.Data;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

await using var group = await ProcessGroup.InitializeAsync();                     // 1: this process's place among the ranks
random.manual_seed(1);                                                            // the same numbers on every rank
using Tensor points = (rand(1024, 2) * 2) - 1;
using Tensor labels = points.square().sum(1).lt(0.6).to(float32);                 // inside of a circle or not
using var model = new Circle();
using var optimizer = optim.Adam(model.parameters(), 0.01);
using var strategy = new DataParallel(group);
strategy.Attach(model);                                                           // 2: the ranks' models are checked and made one

// 3: of each batch of 64 this rank takes its part, the same samples in all for any number of ranks
var sampler = new DistributedSampler(count: 1024, batchSize: 64, group.Rank, group.WorldSize, seed: 1);
for (int epoch = 0; epoch < 20; epoch++)
{
    sampler.SetEpoch(epoch);
    for (int batch = 0; batch < sampler.BatchesPerEpoch; batch++)
    {
        using DisposeScope scope = NewDisposeScope();
        Tensor mine = tensor(sampler.LocalIndices(batch).ToArray());
        optimizer.zero_grad();
        (Loss(model.call(points[mine]), labels[mine]) * group.WorldSize / sampler.GlobalBatchSize(batch)).backward();
        strategy.SynchronizeGradients();                                          // 4: the gradients become the mean over the ranks
        optimizer.step();
    }
}

model.eval();
double[] sums = new double[2];                                                    // of this rank's samples; then of all
using (no_grad())
using (NewDisposeScope())
{
    Tensor mine = arange(group.Rank, 1024, group.WorldSize);
    Tensor output = model.call(points[mine]);
    sums[0] = Loss(output, labels[mine]).ToDouble();
    sums[1] = output.gt(0).eq(labels[mine].to(@bool)).sum().ToDouble();
}

group.AllReduce<double>(sums);
if (group.Rank == 0) Console.WriteLine($"{group.WorldSize} ranks, loss {sums[0] / 1024:0.0000}, accuracy {sums[1] / 1024:0.000}");

// The sum over samples, so that ranks with unequally many count as they should.
static Tensor Loss(Tensor output, Tensor labels) =>
    nn.functional.binary_cross_entropy_with_logits(output, labels, reduction: nn.Reduction.Sum);

internal sealed class Circle : nn.Module<Tensor, Tensor>
{
    private readonly Linear hidden = nn.Linear(2, 32);
    private readonly Linear output = nn.Linear(32, 1);

    public Circle()
        : base(nameof(Circle)) => RegisterComponents();

    public override Tensor forward(Tensor points) => output.call(hidden.call(points).tanh()).squeeze(1);
}
