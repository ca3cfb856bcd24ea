using Skein.Cli;
using Skein.Collectives.Rendezvous;

// mpirun gives ranks a pseudo-terminal, to which the runtime would write control sequences, in front of the JSON.
if (LauncherEnvironment.HasRank()) Environment.SetEnvironmentVariable("TERM", "dumb");

return await CommandLine.RunAsync(SkeinCommand.Create(), args);
