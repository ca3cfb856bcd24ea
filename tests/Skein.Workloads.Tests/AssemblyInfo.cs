using Xunit.Sdk;
using Xunit.v3;

// LibTorch's generator belongs to the process: a model that one test makes would shift the numbers that another one drew
// its seed for.
[assembly: Parallelization(Mode = ParallelMode.None)]
