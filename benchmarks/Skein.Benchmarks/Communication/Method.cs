using System.Globalization;

namespace Skein.Benchmarks.Communication;

/// <summary>A way to train with fewer bytes, by the options that ask for it.</summary>
internal sealed record Method(string Name, params string[] Arguments)
{
    /// <summary>The first is what the others are compared with.</summary>
    public static readonly Method[] All =
    [
        new("none"),
        new("fp16", "--compression", "fp16"),
        new("bf16", "--compression", "bf16"),
        new("int8", "--compression", "int8"),
        new("qsgd:4", "--compression", "qsgd:4"),
        new("topk:0.01", "--compression", "topk:0.01"),
        new("randomk:0.05", "--compression", "randomk:0.05"),
        new("powersgd:2", "--compression", "powersgd:2"),
        new("powersgd:4", "--compression", "powersgd:4"),
        new("signsgd", "--compression", "signsgd"),
        new("local-sgd", "--strategy", "local-sgd", "--local-steps", "16"),
        new("ddp-adamw", "--optimizer", "adamw", "--learning-rate", "0.001"),
        new("diloco", "--strategy", "local-sgd", "--local-steps", "50", "--outer", "diloco", "--optimizer", "adamw", "--learning-rate", "0.001"),
        new("diloco-int8", "--strategy", "local-sgd", "--local-steps", "50", "--outer", "diloco", "--optimizer", "adamw", "--learning-rate", "0.001", "--compression", "int8"),
        new("gossip-ring", "--strategy", "gossip", "--topology", "ring"),
        new("gossip-exponential", "--strategy", "gossip", "--topology", "exponential"),
        new("choco-qsgd", "--strategy", "gossip", "--topology", "exponential", "--compression", "qsgd:4", "--consensus-step", "0.3"),
    ];

    /// <summary>After how many steps the workers meet.</summary>
    public int LocalSteps => Array.IndexOf(Arguments, "--local-steps") is var at and >= 0 ? int.Parse(Arguments[at + 1], CultureInfo.InvariantCulture) : 1;

    /// <summary>The methods of these names.</summary>
    /// <exception cref="ArgumentException">There is none of a name.</exception>
    public static Method[] Named(IEnumerable<string> names) =>
        [.. names.Select(static name => All.FirstOrDefault(method => method.Name == name) ?? throw new ArgumentException($"unknown method '{name}'; known are {string.Join(", ", All.Select(static method => method.Name))}"))];
}
