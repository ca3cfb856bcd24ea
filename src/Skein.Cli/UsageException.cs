namespace Skein.Cli;

/// <summary>The command was asked for something that it does not understand: one line on stderr, exit code 2.</summary>
internal sealed class UsageException(string message) : Exception(message);
