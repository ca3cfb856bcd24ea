// One rank of a job that a test has started: joins it, says "joined", plays the scenario of the first argument, and ends
// with 0, or with 1 and the error's type and message.
using Skein.Collectives;
using Skein.TestWorker;

try
{
    Action<ProcessGroup, string[]> scenario = Scenarios.Find(args[0]);
    await using ProcessGroup group = await ProcessGroup.InitializeAsync();
    Console.WriteLine("joined");
    scenario(group, args[1..]);
    return 0;
}
catch (Exception error)
{
    await Console.Error.WriteLineAsync($"{error.GetType().Name}: {error.Message}");
    return 1;
}
