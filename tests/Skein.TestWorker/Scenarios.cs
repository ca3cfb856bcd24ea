using System.Globalization;
using Skein.Collectives;

namespace Skein.TestWorker;

/// <summary>What a rank can be told to do.</summary>
internal static class Scenarios
{
    public static Action<ProcessGroup, string[]> Find(string name) => name switch
    {
        "all-reduce-forever" => AllReduceForever,
        "call" => Call,
        "receive" => Receive,
        _ => throw new ArgumentException($"no scenario '{name}'"),
    };

    /// <summary>all-reduce-forever FLOATS: says "running" after the first, and goes on until something stops it.</summary>
    private static void AllReduceForever(ProcessGroup group, string[] arguments)
    {
        float[] buffer = new float[int.Parse(arguments[0], CultureInfo.InvariantCulture)];
        group.AllReduce(buffer.AsSpan());
        Console.WriteLine("running");
        while (true) group.AllReduce(buffer.AsSpan());
    }

    /// <summary>call ACTION…: the action of this rank, after two barriers; a rank without one plays the first.</summary>
    private static void Call(ProcessGroup group, string[] actions)
    {
        group.Barrier();
        group.Barrier();
        switch (group.Rank < actions.Length ? actions[group.Rank] : actions[0])
        {
            case "all-reduce":
                group.AllReduce(new float[1000].AsSpan());
                break;
            case "all-reduce-max":
                group.AllReduce(new float[1000].AsSpan(), ReduceOperation.Max);
                break;
            case "all-reduce-longer":
                group.AllReduce(new float[1001].AsSpan());
                break;
            case "all-reduce-double":
                group.AllReduce(new double[1000].AsSpan());
                break;
            case "broadcast":
                group.Broadcast(new float[1000].AsSpan());
                break;
            case "broadcast-from-1":
                group.Broadcast(new float[1000].AsSpan(), 1);
                break;
            case "barrier":
                group.Barrier();
                break;
            case "throw":
                throw new InvalidOperationException("this rank's own trouble");
            case "leave":
                return;
            case "idle":
                Console.WriteLine("idle");
                Thread.Sleep(Timeout.Infinite);
                break;
            case string unknown:
                throw new ArgumentException($"no action '{unknown}'");
        }
    }

    /// <summary>receive: rank 0 waits for a message from rank 1, which says "idle" and sends none.</summary>
    private static void Receive(ProcessGroup group, string[] arguments)
    {
        if (group.Rank == 0) group.Recv(new float[10].AsSpan(), source: 1);
        Console.WriteLine("idle");
        Thread.Sleep(Timeout.Infinite);
    }
}
