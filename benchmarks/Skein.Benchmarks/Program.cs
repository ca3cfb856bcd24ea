using System.CommandLine;
using Skein.Benchmarks;

// Whole-process benchmarks: dotnet run -c Release --project benchmarks/Skein.Benchmarks -- ddp | allreduce PEERS
return await new RootCommand("Benchmarks of whole processes")
{
    AllReduceBenchmark.Command(),
    DataParallelBenchmark.Command(),
    DataParallelWorker.Command(),
}.Parse(args).InvokeAsync();
