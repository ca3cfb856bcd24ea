using Xunit.Sdk;
using Xunit.v3;

// LibTorch's generator belongs to the process: a test that seeds it must not meet one that draws from it.
[assembly: Parallelization(Mode = ParallelMode.None)]
