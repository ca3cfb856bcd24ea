namespace Skein.ParameterServer;

/// <summary>
/// An optimizer with its state for one slice of a dense parameter. It counts its own updates, so that Adam's bias is
/// corrected by what this slice has seen, whatever the order in which workers push. Not thread-safe.
/// </summary>
internal sealed class DenseOptimizer
{
    private readonly UpdateRule rule;
    private readonly float[] state;

    private DenseOptimizer(UpdateRule rule, int length)
    {
        this.rule = rule;
        Length = length;
        state = new float[checked(rule.StateVectors * length)];
    }

    /// <summary>The number of parameters.</summary>
    public int Length { get; }

    /// <summary>The number of updates applied so far.</summary>
    public long Updates { get; private set; }

    /// <summary>An optimizer, its state zero, of a slice of <paramref name="length"/> parameters.</summary>
    public static DenseOptimizer Create(ServerOptimizerOptions options, int length) => new(new UpdateRule(options), length);

    /// <summary>Applies one update, which is counted.</summary>
    public void Apply(Span<float> parameters, ReadOnlySpan<float> gradient, float learningRate) =>
        rule.Apply(parameters, gradient, state, learningRate, ++Updates);

    /// <summary>Writes the count of updates and the state.</summary>
    public void Save(BinaryWriter writer)
    {
        writer.Write((byte)rule.Options.Kind);
        writer.Write(rule.StateVectors);
        writer.Write(Length);
        writer.Write(Updates);
        FloatBlocks.Write(writer, state);
    }

    /// <summary>Reads what <see cref="Save"/> wrote.</summary>
    /// <exception cref="InvalidDataException">It is of another optimizer or length; nothing was changed.</exception>
    /// <exception cref="EndOfStreamException">It ends early; the state is undefined.</exception>
    public void Load(BinaryReader reader)
    {
        var kind = (ServerOptimizerKind)reader.ReadByte();
        int vectors = reader.ReadInt32(), length = reader.ReadInt32();
        long updates = reader.ReadInt64();
        if (kind != rule.Options.Kind || vectors != rule.StateVectors || length != Length || updates < 0)
            throw new InvalidDataException(
                $"saved state of {kind} with {vectors} vectors of {length} after {updates} updates does not fit {rule.Options.Kind} with {rule.StateVectors} vectors of {Length}; load it with the options that it was saved with");
        FloatBlocks.Read(reader, state);
        Updates = updates;
    }
}
