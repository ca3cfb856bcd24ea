using Skein.Collectives;

namespace Skein.Cli.Bench;

/// <summary>One collective at one size, with its buffers: runs it, and checks it against what it has to give.</summary>
internal sealed class CollectiveTrial<T> : IDisposable where T : unmanaged
{
    private readonly ProcessGroup group;
    private readonly string collective;
    private readonly int length;
    private readonly Func<int, T> from;
    private readonly Func<T, double> to;
    private readonly SharedBuffer<T> input;
    private readonly SharedBuffer<T> output;
    private readonly T[]? ordinaryInput;
    private readonly T[]? ordinaryOutput;

    public CollectiveTrial(ProcessGroup group, BenchOptions options, int length, Func<int, T> from, Func<T, double> to)
    {
        this.group = group;
        this.length = length;
        this.from = from;
        this.to = to;
        collective = options.Collective;
        (int inputLength, int outputLength) = collective switch
        {
            "allgather" => (length, length * N),
            "reducescatter" => (length, Part(Me)),
            "alltoall" => (length, Part(Me) * N),
            "sendrecv" => (length, length),
            _ => (0, length),
        };
        // Ordinary memory is pinned and touched beforehand, as a training program's buffers are.
        if (!options.SharedBuffers)
        {
            ordinaryInput = GC.AllocateArray<T>(inputLength, pinned: true);
            ordinaryOutput = GC.AllocateArray<T>(outputLength, pinned: true);
        }

        input = group.AllocateShared<T>(options.SharedBuffers ? inputLength : 0);
        output = group.AllocateShared<T>(options.SharedBuffers ? outputLength : 0);
    }

    private int N => group.WorldSize;

    private int Me => group.Rank;

    private Span<T> Input => ordinaryInput ?? input.GetSpan();

    private Span<T> Output => ordinaryOutput ?? output.GetSpan();

    /// <summary>What the bus bandwidth is of the algorithm bandwidth: the share that has to cross a rank's link.</summary>
    public double BusFactor => collective switch
    {
        "allreduce" => 2.0 * (N - 1) / N,
        "allgather" or "reducescatter" or "alltoall" => (double)(N - 1) / N,
        _ => 1,
    };

    public string? Algorithm => collective == "allreduce" && N > 1 ? group.AlgorithmOf<T>(length) : null;

    /// <summary>The bytes that the algorithm bandwidth counts: those of all ranks together for an all-gather.</summary>
    public double MovedBytes(long bytes) => collective == "allgather" ? (double)bytes * N : bytes;

    public void Run()
    {
        switch (collective)
        {
            case "allreduce":
                group.AllReduce(Output);
                break;
            case "allgather":
                group.AllGather<T>(Input, Output);
                break;
            case "reducescatter":
                group.ReduceScatter<T>(Input, Output);
                break;
            case "broadcast":
                group.Broadcast(Output);
                break;
            case "alltoall":
                group.AllToAll<T>(Input, Output);
                break;
            case "sendrecv" when N > 1:
                // Both at once, as neighbours in a ring do.
                CollectiveHandle sent = group.SendAsync<T>(ordinaryInput ?? input.Memory, (Me + 1) % N);
                group.Recv(Output, (Me + N - 1) % N);
                sent.Wait();
                break;
        }
    }

    /// <summary>Fills in values that are exact in all types, runs once and looks at every element.</summary>
    public bool IsCorrect()
    {
        Span<T> source = collective is "allreduce" or "broadcast" ? Output : Input;
        for (int i = 0; i < source.Length; i++) source[i] = from(Value(Me, i));
        Run();
        if (N == 1 && collective == "sendrecv") return true;
        for (int i = 0; i < Output.Length; i++)
        {
            if (to(Output[i]) != Expected(i)) return false;
        }

        return true;
    }

    public void Dispose()
    {
        group.Barrier();
        input.Dispose();
        output.Dispose();
    }

    private double Expected(int i) => collective switch
    {
        "allreduce" => Sum(i),
        "allgather" => Value(i / length, i % length),
        "reducescatter" => Sum(Start(Me) + i),
        "broadcast" => Value(0, i),
        "alltoall" => Value(i / Part(Me), Start(Me) + (i % Part(Me))),
        _ => Value((Me + N - 1) % N, i),
    };

    private int Sum(int i)
    {
        int sum = 0;
        for (int rank = 0; rank < N; rank++) sum += Value(rank, i);
        return sum;
    }

    /// <summary>Small enough that the sum over 50 ranks fits into a byte.</summary>
    private static int Value(int rank, int i) => (rank + i) % 5;

    private int Part(int rank) => (length / N) + (rank < length % N ? 1 : 0);

    private int Start(int rank) => (rank * (length / N)) + Math.Min(rank, length % N);
}
