namespace Skein.Training.LibTorch;

/// <summary>How LibTorch came into this process.</summary>
/// <param name="Version">LibTorch's version that TorchSharp was built for, such as <c>2.10.0</c>; null when it could not be loaded.</param>
/// <param name="Directory">Folder of <c>libtorch_cpu</c>, or null when it was left to TorchSharp to find it.</param>
/// <param name="Binding">Path of the loaded <c>libLibTorchSharp</c>, or null when it was left to TorchSharp to find it.</param>
/// <param name="Rewritten">True when <paramref name="Binding"/> is a copy made to load with this system's older libstdc++.</param>
/// <param name="Problem">Why LibTorch cannot be used and what to do, or null when it can.</param>
public sealed record LibTorchStatus(string? Version, string? Directory, string? Binding, bool Rewritten, string? Problem);
