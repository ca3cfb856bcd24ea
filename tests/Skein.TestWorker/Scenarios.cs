using System.Globalization;
using Skein.Collectives;

namespace Skein.TestWorker;

/// <summary>What a rank can be told to do.</summary>
internal static class Scenarios
{
    public static Action<ProcessGroup, string[]> Find(string name) => name switch
    {
        "all-reduce-forever" => AllReduceForever,
        "all-reduce-until" => AllReduceUntil,
        "call" => Call,
        "receive" => Receive,
        "check" => Check,
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

    /// <summary>all-reduce-until FILE: says "running" after the first and "checked" after the last, once the file exists; checks every result.</summary>
    private static void AllReduceUntil(ProcessGroup group, string[] arguments)
    {
        int n = group.WorldSize;
        float[] buffer = new float[10_000];
        bool first = true;
        do
        {
            for (int i = 0; i < buffer.Length; i++) buffer[i] = group.Rank + i;

            // Rank 0 decides, so that all end after the same call.
            buffer[0] = group.Rank == 0 && File.Exists(arguments[0]) ? 1 : 0;
            group.AllReduce(buffer.AsSpan());
            for (int i = 1; i < buffer.Length; i++) Expect(n * i + n * (n - 1) / 2, buffer[i], "all-reduce");
            if (first) Console.WriteLine("running");
            first = false;
        }
        while (buffer[0] == 0);
        Console.WriteLine("checked");
    }

    /// <summary>call ACTION…: the action of this rank between barriers; a rank without one plays the first.</summary>
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

        // A rank that only sends, like the root of a broadcast, notices nothing before its next call.
        group.Barrier();
    }

    /// <summary>receive: rank 0 waits for a message from rank 1, which says "idle" and sends none.</summary>
    private static void Receive(ProcessGroup group, string[] arguments)
    {
        if (group.Rank == 0) group.Recv(new float[10].AsSpan(), source: 1);
        Console.WriteLine("idle");
        Thread.Sleep(Timeout.Infinite);
    }

    /// <summary>check: a few calls of every kind with known results; says "checked" and the transport.</summary>
    private static void Check(ProcessGroup group, string[] arguments)
    {
        int n = group.WorldSize, rank = group.Rank;
        foreach (int length in new[] { 0, 1, 1009, 700_001 })
        {
            float[] buffer = [.. Enumerable.Range(0, length).Select(i => (float)(rank + i % 5))];
            group.AllReduce(buffer.AsSpan());
            for (int i = 0; i < length; i++) Expect(n * (i % 5) + n * (n - 1) / 2, buffer[i], $"all-reduce of {length}");
            CollectiveHandle broadcast = group.BroadcastAsync(buffer.AsMemory(), n - 1);
            int[] ranks = new int[n];
            group.AllGather<int>([rank], ranks);
            broadcast.Wait();
            for (int i = 0; i < n; i++) Expect(i, ranks[i], "all-gather");
        }

        ProcessGroup half = group.SplitAsync(rank % 2, rank).Result!;
        long[] members = [1];
        half.AllReduce(members.AsSpan());
        half.DisposeAsync().AsTask().Wait();
        Expect((n + 1 - rank % 2) / 2, members[0], "all-reduce in a subgroup");

        double[] message = [rank, 0.5];
        CollectiveHandle send = group.SendAsync<double>(message, (rank + 1) % n, tag: 3);
        double[] arrived = new double[2];
        group.Recv(arrived.AsSpan(), ProcessGroup.AnySource, tag: 3);
        send.Wait();
        Expect((rank + n - 1) % n + 0.5, arrived.Sum(), "message");
        Console.WriteLine($"checked {group.TransportName}");
    }

    private static void Expect(double expected, double actual, string what)
    {
        if (expected != actual) throw new InvalidOperationException($"{what} gave {actual} instead of {expected}");
    }
}
