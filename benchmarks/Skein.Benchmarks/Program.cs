using System.CommandLine;
using Skein.Benchmarks;

// Whole-process benchmarks: dotnet run -c Release --project benchmarks/Skein.Benchmarks -- ddp
return await new RootCommand("Benchmarks of whole processes; CSV on stdout")
{
    DataParallelBenchmark.Command(),
    DataParallelWorker.Command(),
}.Parse(args).InvokeAsync();
