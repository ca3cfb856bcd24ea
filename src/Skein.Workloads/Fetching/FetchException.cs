namespace Skein.Workloads.Fetching;

/// <summary>A source does not give what was asked of it; another one may.</summary>
internal sealed class FetchException(string message, Exception? inner = null) : Exception(message, inner);
