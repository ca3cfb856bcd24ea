using System.CommandLine;
using Skein.Benchmarks;
using Skein.Benchmarks.Communication;
using Skein.Benchmarks.ModelParallel;
using Skein.Benchmarks.ParameterServers;

// Whole-process benchmarks: dotnet run -c Release --project benchmarks/Skein.Benchmarks -- allreduce PEERS | ddp | loss --plot SVG -- TRAIN… | parameter-server MODE | compression MODE | model-parallel MODE
return await new RootCommand("Benchmarks of whole processes")
{
    AllReduceBenchmark.Command(),
    DataParallelBenchmark.Command(),
    DataParallelWorker.Command(),
    LossCurve.Command(),
    LoopbackBaseline.PeerCommand(),
    ServersCommand.Create(),
    CompressionCommand.Create(),
    ModelParallelCommand.Create(),
}.Parse(args).InvokeAsync();
