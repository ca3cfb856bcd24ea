using System.Globalization;

namespace Skein.Training.Meshes;

/// <summary>
/// The dimensions along which ranks divide the work, outermost first: rank r has the coordinates of r written as a number
/// whose digits have the dimensions' sizes, as in PyTorch's <c>DeviceMesh</c>. Immutable.
/// </summary>
public sealed record MeshShape
{
    /// <summary>Data parallel: ranks that see different samples.</summary>
    public const string Data = "dp";

    /// <summary>Pipeline parallel: ranks that hold different layers.</summary>
    public const string Pipeline = "pp";

    /// <summary>Tensor parallel: ranks that hold different parts of the same layers.</summary>
    public const string Tensor = "tp";

    /// <summary>A mesh of these dimensions; all three are always there, those that are not given with size 1.</summary>
    /// <exception cref="ArgumentOutOfRangeException">A size is below 1.</exception>
    public MeshShape(int data = 1, int pipeline = 1, int tensor = 1)
    {
        Dimensions = [(Data, data), (Pipeline, pipeline), (Tensor, tensor)];
        foreach ((string name, int size) in Dimensions)
        {
            if (size < 1) throw new ArgumentOutOfRangeException(name, size, $"the mesh has {name}={size}, but a dimension has at least 1 rank");
        }
    }

    /// <summary>Names and sizes, outermost first: neighbours in the last one are neighbouring ranks, since they talk most.</summary>
    public IReadOnlyList<(string Name, int Size)> Dimensions { get; }

    /// <summary>The number of ranks.</summary>
    public int WorldSize => Dimensions.Aggregate(1, static (product, dimension) => checked(product * dimension.Size));

    /// <summary>The size of the dimension of that name.</summary>
    /// <exception cref="ArgumentException">There is none.</exception>
    public int this[string name] => Dimensions[IndexOf(name)].Size;

    /// <summary>Reads <c>dp=2,pp=2,tp=1</c>, in any order; what is left out is 1.</summary>
    /// <exception cref="FormatException">It is nothing of that kind; names the part that is wrong.</exception>
    public static MeshShape Parse(string text)
    {
        ArgumentNullException.ThrowIfNull(text);
        var sizes = new Dictionary<string, int>();
        foreach (string part in text.Split(',', StringSplitOptions.TrimEntries))
        {
            string[] sides = part.Split('=');
            if (sides.Length != 2 || sides[0] is not (Data or Pipeline or Tensor) || !int.TryParse(sides[1], NumberStyles.None, CultureInfo.InvariantCulture, out int size) || size < 1)
            {
                throw new FormatException($"mesh '{text}' has the part '{part}': give dp=N,pp=N,tp=N with whole numbers from 1");
            }

            if (!sizes.TryAdd(sides[0], size)) throw new FormatException($"mesh '{text}' gives {sides[0]} twice");
        }

        return new MeshShape(sizes.GetValueOrDefault(Data, 1), sizes.GetValueOrDefault(Pipeline, 1), sizes.GetValueOrDefault(Tensor, 1));
    }

    /// <summary>Checks that the dimensions multiply to the number of ranks.</summary>
    /// <exception cref="ArgumentException">They do not; shows the product.</exception>
    public void Validate(int worldSize)
    {
        Int128 product = Dimensions.Aggregate(Int128.One, static (product, dimension) => product * dimension.Size);
        if (product == worldSize) return;
        throw new ArgumentException(
            $"the mesh is {string.Join(" * ", Dimensions.Select(static dimension => $"{dimension.Name}({dimension.Size})"))} = {product} ranks, but the world size is {worldSize}: change the mesh, or start {product} workers");
    }

    /// <summary>Where a rank is, in the order of <see cref="Dimensions"/>.</summary>
    public int[] CoordinatesOf(int rank)
    {
        var coordinates = new int[Dimensions.Count];
        for (int i = coordinates.Length - 1; i >= 0; i--) (rank, coordinates[i]) = Math.DivRem(rank, Dimensions[i].Size);
        return coordinates;
    }

    /// <summary>As <see cref="Parse"/> reads it.</summary>
    public override string ToString() => string.Join(",", Dimensions.Select(static dimension => $"{dimension.Name}={dimension.Size}"));

    /// <inheritdoc/>
    public bool Equals(MeshShape? other) => other is not null && Dimensions.SequenceEqual(other.Dimensions);

    /// <inheritdoc/>
    public override int GetHashCode() => ToString().GetHashCode(StringComparison.Ordinal);

    internal int IndexOf(string name)
    {
        for (int i = 0; i < Dimensions.Count; i++)
        {
            if (Dimensions[i].Name == name) return i;
        }

        throw new ArgumentException($"the mesh {this} has no dimension '{name}'", nameof(name));
    }
}
