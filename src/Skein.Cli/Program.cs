using System.Runtime.InteropServices;
using Skein.Cli;
using Skein.Collectives.Rendezvous;

// mpirun gives ranks a pseudo-terminal, to which the runtime would write control sequences, in front of the JSON.
if (LauncherEnvironment.HasRank()) Environment.SetEnvironmentVariable("TERM", "dumb");

// SIGQUIT asks a rank for a dump, and ends no command: neither before a rank has joined, nor where there is nothing to dump.
using var quit = OperatingSystem.IsWindows() ? null : PosixSignalRegistration.Create(PosixSignal.SIGQUIT, static context => context.Cancel = true);

return await CommandLine.RunAsync(SkeinCommand.Create(), args);
