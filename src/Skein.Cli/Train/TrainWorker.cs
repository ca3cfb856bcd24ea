namespace Skein.Cli.Train;

/// <summary>One worker of <c>skein train</c>: the whole job when it runs alone, one rank of it when a launcher started it.</summary>
internal static class TrainWorker
{
    /// <summary>Trains and, on rank 0, writes the run directory and the summary.</summary>
    /// <returns>0. What goes wrong is thrown; the command's entry turns it into a line on stderr and an exit code.</returns>
    /// <exception cref="UsageException">The options make no sense together.</exception>
    public static Task<int> RunAsync(TrainOptions options, CancellationToken cancellationToken) => throw new NotImplementedException();
}
