namespace Skein.EndToEnd;

/// <summary>Ways to divide a model that do not fit are one line that says so, before workers start where that can be known.</summary>
public sealed class ModelParallelUsageTests : IDisposable
{
    private const string Schedules = "give gpipe, 1f1b, interleaved:V with V from 1 to 1024 chunks a stage, or zero-bubble";
    private const string Splits = "give estimated, profiled, or the number of layers of each stage (or of each of its chunks), for example 3,4";
    private const string Sizes = "give dp=N,pp=N,tp=N with whole numbers from 1";

    private readonly string directory = Directory.CreateTempSubdirectory("skein-model-parallel-usage-").FullName;

    public void Dispose() => Directory.Delete(directory, recursive: true);

    [Theory]
    [InlineData("--strategy mesh needs --mesh, for example --mesh dp=4,pp=1,tp=1", "--strategy mesh")]
    [InlineData("the mesh is dp(2) * pp(3) * tp(1) = 6 ranks, but the world size is 4: change the mesh, or start 6 workers", "--strategy mesh --mesh dp=2,pp=3")]
    [InlineData(
        "the mesh is dp(2000000000) * pp(2000000000) * tp(2000000000) = 8000000000000000000000000000 ranks, but the world size is 4: change the mesh, or start 8000000000000000000000000000 workers",
        "--strategy mesh --mesh dp=2000000000,pp=2000000000,tp=2000000000")]
    [InlineData($"mesh 'dp=4;pp=1' has the part 'dp=4;pp=1': {Sizes}", "--strategy mesh --mesh dp=4;pp=1")]
    [InlineData($"mesh 'dp=0,pp=4' has the part 'dp=0': {Sizes}", "--strategy mesh --mesh dp=0,pp=4")]
    [InlineData($"mesh 'ep=4' has the part 'ep=4': {Sizes}", "--strategy mesh --mesh ep=4")]
    [InlineData("mesh 'dp=2,dp=2' gives dp twice", "--strategy mesh --mesh dp=2,dp=2")]
    [InlineData("--mesh needs --strategy mesh", "--strategy pipeline --mesh pp=4")]
    [InlineData("a batch of 45 does not divide by 2 data-parallel workers (45 = 2 * 22 + 1): use --batch-size 44 or 46, or another number of workers", "--strategy mesh --mesh dp=2,tp=2 --batch-size 45")]
    public Task A_mesh_that_does_not_fit(string message, string options) => RefusesAsync(2, message, $"digits --workers 4 {options}");

    [Theory]
    [InlineData("--zero is 4: give 1, 2 or 3", "--strategy sharded --zero 4")]
    [InlineData("--zero is 0: give 1, 2 or 3", "--strategy sharded --zero 0")]
    [InlineData("Cannot parse argument 'all' for option '--zero': give a whole number; see skein --help", "--strategy sharded --zero all")]
    [InlineData($"'dualpipe' is no pipeline schedule: {Schedules}", "--strategy pipeline --schedule dualpipe")]
    [InlineData($"'interleaved:2000000000' is no pipeline schedule: {Schedules}", "--strategy pipeline --schedule interleaved:2000000000")]
    [InlineData($"--split is '6,0': {Splits}", "--strategy pipeline --split 6,0")]
    [InlineData($"--split is 'half': {Splits}", "--strategy pipeline --split half")]
    [InlineData("--split is '3,2,1', the layers of 3 chunks, but there are 2 stages * 1 chunks each = 2: give a number for each", "--strategy pipeline --split 3,2,1")]
    [InlineData("--split is '3,3', the layers of 2 chunks, but there are 2 stages * 2 chunks each = 4: give a number for each", "--strategy pipeline --split 3,3 --schedule interleaved:2")]
    [InlineData("--micro-batches is 13: give a whole number from 1 to 12, the samples of a step", "--strategy pipeline --micro-batches 13 --batch-size 12")]
    [InlineData("--micro-batches is 4 and --gradient-accumulation 2: in a pipeline they are the same, so give one", "--strategy pipeline --micro-batches 4 --gradient-accumulation 2")]
    public Task A_value_that_does_not_fit(string message, string options) => RefusesAsync(2, message, $"language-model --workers 2 {options}");

    [Theory]
    [InlineData("--zero needs --strategy sharded or mesh", "--strategy ddp --zero 1")]
    [InlineData("--zero needs --strategy sharded or mesh", "--strategy tensor --zero 1")]
    [InlineData("--schedule needs --strategy pipeline or mesh", "--strategy gossip --schedule gpipe")]
    [InlineData("--schedule needs a pipeline: --strategy pipeline, or a mesh with pp above 1", "--strategy mesh --mesh dp=2 --schedule gpipe")]
    [InlineData("--micro-batches needs a pipeline (elsewhere --gradient-accumulation splits a step)", "--strategy sharded --micro-batches 4")]
    [InlineData("--split needs a pipeline: --strategy pipeline, or a mesh with pp above 1", "--strategy tensor --split 3,3")]
    [InlineData("--sequence-parallel needs tensor parallel workers: --strategy tensor, or a mesh with tp above 1", "--strategy pipeline --sequence-parallel")]
    [InlineData("--activation-checkpointing needs --strategy sharded, pipeline, tensor or mesh", "--strategy local-sgd --activation-checkpointing")]
    [InlineData("--offload-optimizer needs --zero", "--strategy mesh --mesh dp=2 --offload-optimizer")]
    [InlineData("--compression is int8, but --zero divides the gradients that it would compress: use one of the two", "--strategy mesh --mesh dp=2 --zero 1 --compression int8")]
    [InlineData("--compression is int8, which needs --strategy ddp, mesh, local-sgd or gossip; this is sharded", "--strategy sharded --compression int8")]
    [InlineData(
        "--compression is int8, which is for gradients between data-parallel workers, but the mesh is dp=1,pp=2,tp=1: use one with dp above 1, or no compression",
        "--strategy mesh --mesh pp=2 --compression int8")]
    [InlineData("the model mf has no plan for tensor parallelism", "--strategy tensor", "lecture-ratings")]
    [InlineData("lecture-ratings is measured on the whole model, which no worker would have: use --strategy ddp, or sharded with --zero 1 or 2", "--strategy pipeline", "lecture-ratings")]
    public Task An_option_of_another_strategy(string message, string options, string workload = "digits") =>
        RefusesAsync(2, message, $"{workload} --workers 2 {options}");

    [Theory]
    [InlineData("4 stages * 1 chunks each = 4 chunks, but the model has 3 layers to share out: use fewer stages or chunks, or a model of more layers", "digits --workers 4 --strategy pipeline")]
    [InlineData("the split is 3 + 4 = 7 layers in 2 chunks, but the model has 6 layers for 2 stages * 1 chunks each = 2 chunks", "language-model --workers 2 --strategy pipeline --split 3,4")]
    [InlineData(
        "module 'layers.1.attention.query' has 4 heads, which 3 ranks cannot share equally (4 = 3 * 1 + 1): choose a number of ranks that divides 4, or leave the module out of the plan",
        "language-model --workers 3 --strategy tensor")]
    [InlineData(
        "the sequence has 15 positions, which 2 ranks cannot share equally (15 = 2 * 7 + 1): choose a length that is a multiple of 2, or turn sequence parallelism off",
        "language-model --context 15 --workers 2 --strategy tensor --sequence-parallel")]
    public Task A_model_that_cannot_be_divided_so(string message, string arguments) => RefusesAsync(1, message, arguments);

    private async Task RefusesAsync(int code, string message, string arguments)
    {
        await using SkeinProcess job = SkeinProcess.Start(["train", .. arguments.Split(' '), "--run-dir", directory]);
        Assert.Equal(code, await job.ExitAsync());
        Assert.Empty(job.Output);
        // Every rank finds what only the model tells; the launcher names the first, when that ended before rank 0 could speak.
        Assert.Matches($"^skein: (rank \\d exited with code 1: )?{System.Text.RegularExpressions.Regex.Escape(message)}(; its output is in .*)?$", Assert.Single(job.Errors));
        Assert.Empty(job.Descendants);
    }
}
