using System.Diagnostics;
using Skein.Collectives;
using static TorchSharp.torch;

namespace Skein.Training.Pipeline;

/// <summary>Which way a tensor crosses the boundary between two chunks.</summary>
internal enum Crossing
{
    Activation,
    Gradient,
}

/// <summary>
/// Carries tensors between a chunk and the next one, boundary b lying after chunk b. The first activation over each boundary
/// announces type and shape; from then on messages are bytes only, and have to be like it but for the number of samples.
/// Sends run in the background; so do receives that were announced with <see cref="Expect"/>. Not thread-safe.
/// </summary>
internal sealed class BoundaryExchange(ProcessGroup group, int chunks, Device device)
{
    private const int MostDimensions = 8;
    private const int Kinds = 4;
    private const int DescriptionKind = 2;

    /// <summary>The kind of tags that are left for others.</summary>
    public const int FreeKind = 3;

    private readonly Dictionary<int, Agreement> agreements = [];
    private readonly Dictionary<long, Stack<Tensor>> pool = [];
    private readonly Dictionary<(Crossing, int, int), (Tensor Buffer, CollectiveHandle Handle)> expected = [];
    private readonly List<(CollectiveHandle Handle, Tensor Value)> sends = [];

    /// <summary>How long this rank has waited for messages.</summary>
    public TimeSpan Waited { get; private set; }

    /// <summary>A message tag of a kind; <paramref name="number"/> tells those of one kind apart.</summary>
    public static int Tag(int kind, int number) => checked((number * Kinds) + kind);

    /// <summary>Sends a tensor across a boundary. It must not be changed before <see cref="Flush"/>.</summary>
    /// <exception cref="InvalidOperationException">It is not like the ones before.</exception>
    public void Send(Crossing crossing, int boundary, int microBatch, int samples, Tensor value)
    {
        int peer = Peer(crossing, boundary, sending: true);
        if (!agreements.TryGetValue(boundary, out Agreement? agreement))
        {
            agreement = agreements[boundary] = Agreement.Of(value, samples, boundary);
            group.Send<long>(agreement.Describe(), peer, Tag(DescriptionKind, boundary));
        }

        agreement.Check(value, samples, boundary);
        Tensor bytes = value.detach().cpu().contiguous().DetachFromDisposeScope();
        Reap();
        sends.Add((group.SendAsync<byte>(new TensorMemory(bytes).Memory, peer, MessageTag(crossing, boundary, microBatch)), bytes));
    }

    /// <summary>Begins to receive in the background, if it is known by now what will come.</summary>
    public void Expect(Crossing crossing, int boundary, int microBatch, int samples)
    {
        if (!agreements.TryGetValue(boundary, out Agreement? agreement) || expected.ContainsKey((crossing, boundary, microBatch))) return;
        Tensor buffer = Take(crossing, agreement, samples);
        expected.Add(
            (crossing, boundary, microBatch),
            (buffer, group.RecvAsync<byte>(new TensorMemory(buffer).Memory, Peer(crossing, boundary, sending: false), MessageTag(crossing, boundary, microBatch))));
    }

    /// <summary>Waits for a tensor. An activation goes back to the pool by <see cref="Recycle"/>; both belong to the caller.</summary>
    public Tensor Receive(Crossing crossing, int boundary, int microBatch, int samples)
    {
        long start = Stopwatch.GetTimestamp();
        int peer = Peer(crossing, boundary, sending: false);
        if (!agreements.TryGetValue(boundary, out Agreement? agreement))
        {
            var description = new long[Agreement.DescriptionLength];
            group.Recv(description.AsSpan(), peer, Tag(DescriptionKind, boundary));
            agreement = agreements[boundary] = Agreement.Read(description, boundary);
        }

        Tensor buffer;
        if (expected.Remove((crossing, boundary, microBatch), out var begun))
        {
            buffer = begun.Buffer;
            begun.Handle.Wait();
        }
        else
        {
            buffer = Take(crossing, agreement, samples);
            group.Recv(new TensorMemory(buffer).GetSpan(), peer, MessageTag(crossing, boundary, microBatch));
        }

        Waited += Stopwatch.GetElapsedTime(start);
        return buffer;
    }

    /// <summary>A tensor from <see cref="Receive"/> as one on the model's device.</summary>
    public Tensor OnDevice(Tensor received) => received.to(device);

    /// <summary>Takes an activation back, once nothing refers to its memory.</summary>
    public void Recycle(Tensor activation)
    {
        long size = activation.numel();
        if (!pool.TryGetValue(size, out Stack<Tensor>? free)) pool[size] = free = [];
        free.Push(activation);
    }

    /// <summary>Waits until all that was sent is out of this rank's hands.</summary>
    public void Flush()
    {
        long start = Stopwatch.GetTimestamp();
        foreach ((CollectiveHandle handle, Tensor value) in sends)
        {
            handle.Wait();
            value.Dispose();
        }

        sends.Clear();
        Waited += Stopwatch.GetElapsedTime(start);
    }

    /// <summary>Frees the pool. What messages still refer to after an error is left to them.</summary>
    public void Free()
    {
        foreach (Tensor tensor in pool.Values.SelectMany(static free => free)) tensor.Dispose();
        pool.Clear();
    }

    private void Reap()
    {
        for (int i = sends.Count - 1; i >= 0; i--)
        {
            if (!sends[i].Handle.IsCompleted) continue;
            sends[i].Handle.Wait();
            sends[i].Value.Dispose();
            sends.RemoveAt(i);
        }
    }

    // Parameters may keep a view of a gradient as theirs, so that its memory cannot be used again.
    private Tensor Take(Crossing crossing, Agreement agreement, int samples)
    {
        long[] shape = agreement.Shape(samples);
        if (crossing == Crossing.Activation && pool.TryGetValue(agreement.Elements(samples), out Stack<Tensor>? free))
        {
            // Boundaries may differ in shape for the same number of elements.
            if (free.TryPeek(out Tensor? tensor) && tensor.dtype == agreement.Type && tensor.shape.SequenceEqual(shape)) return free.Pop();
        }

        return empty(shape, agreement.Type).DetachFromDisposeScope();
    }

    private int Peer(Crossing crossing, int boundary, bool sending) =>
        (crossing == Crossing.Activation == sending ? boundary + 1 : boundary) % group.WorldSize;

    private int MessageTag(Crossing crossing, int boundary, int microBatch) => Tag((int)crossing, checked((microBatch * chunks) + boundary));

    /// <summary>Type and shape of what crosses a boundary: its first dimension is a multiple of the number of samples.</summary>
    private sealed record Agreement(ScalarType Type, long RowsPerSample, long[] Rest)
    {
        public const int DescriptionLength = MostDimensions + 2;

        public static Agreement Of(Tensor value, int samples, int boundary)
        {
            long[] shape = value.shape;
            if (shape.Length is 0 or > MostDimensions || shape[0] == 0 || shape[0] % samples != 0)
            {
                throw new InvalidOperationException(
                    $"chunk {boundary} of the pipeline gave a tensor [{string.Join(", ", shape)}] for {samples} samples: the first of at most {MostDimensions} dimensions has to be the batch, or a multiple of it");
            }

            return new Agreement(value.dtype, shape[0] / samples, shape[1..]);
        }

        public long[] Describe()
        {
            var description = new long[DescriptionLength];
            description[0] = (long)Type;
            description[1] = RowsPerSample;
            Array.Fill(description, -1, 2, MostDimensions);
            Rest.CopyTo(description, 2);
            return description;
        }

        public static Agreement Read(long[] description, int boundary)
        {
            long[] rest = [.. description.Skip(2).TakeWhile(static length => length >= 0)];
            double elements = rest.Aggregate((double)description[1], static (product, length) => product * length);
            if (!Enum.IsDefined((ScalarType)description[0]) || description[1] < 1 || elements > int.MaxValue)
            {
                throw new InvalidOperationException($"chunk {boundary} of the pipeline announced [{string.Join(", ", description)}], which is no type and shape of a tensor");
            }

            return new Agreement((ScalarType)description[0], description[1], rest);
        }

        public long[] Shape(int samples) => [RowsPerSample * samples, .. Rest];

        public long Elements(int samples) => Rest.Aggregate(RowsPerSample * samples, static (product, length) => product * length);

        public void Check(Tensor value, int samples, int boundary)
        {
            long[] expected = Shape(samples);
            if (value.dtype == Type && value.shape.SequenceEqual(expected)) return;
            throw new InvalidOperationException(
                $"chunks {boundary} and {boundary + 1} of the pipeline agreed on {Type}[{string.Join(", ", expected)}] for {samples} samples between them, but there is {value.dtype}[{string.Join(", ", value.shape)}]: "
                + "what a layer at a boundary puts out may change in nothing but the number of samples");
        }
    }
}
