namespace Skein.ParameterServer;

/// <summary>A dense parameter.</summary>
/// <param name="Name">Its name, which no other parameter has.</param>
/// <param name="Length">Its number of elements, at least 0.</param>
public sealed record ParameterSpec(string Name, long Length);

/// <summary>A range of a dense parameter that one server holds.</summary>
/// <param name="Parameter">The parameter's name.</param>
/// <param name="Start">Its first element here.</param>
/// <param name="Length">The number of elements, at least 1.</param>
/// <param name="Server">The server that holds them, from 0.</param>
public sealed record ParameterSlice(string Parameter, long Start, int Length, int Server);
