using System.Numerics;

namespace Skein.ParameterServer;

/// <summary>What a stored row has besides its values.</summary>
internal struct RowHeader
{
    public long Id;
    public long Updates;

    /// <summary>The last push that had this row.</summary>
    public long LastPush;
}

/// <summary>
/// Rows in the order of their arrival, in pages: to grow moves no row. A row's values, parameters and then optimizer
/// state, lie together. Not thread-safe.
/// </summary>
internal sealed class RowStore
{
    private const int LongestPage = 4096;
    private const int PageValues = 256 << 10;

    private readonly List<(RowHeader[] Headers, float[] Values)> pages = [];
    private readonly Dictionary<long, int> places = [];
    private readonly int rowLength;
    private readonly int shift;

    /// <summary>An empty store of rows with <paramref name="rowLength"/> values.</summary>
    public RowStore(int rowLength)
    {
        this.rowLength = rowLength;
        // A page of long rows has fewer of them, so that a small table stays small.
        shift = BitOperations.Log2((uint)Math.Clamp(PageValues / rowLength, 1, LongestPage));
    }

    public int Count => places.Count;

    public bool TryFind(long id, out int place) => places.TryGetValue(id, out place);

    /// <summary>Adds a row, its values zero, that is not stored yet.</summary>
    public int Add(long id)
    {
        int place = Count;
        places.Add(id, place);
        if (place >> shift == pages.Count) pages.Add((new RowHeader[1 << shift], new float[rowLength << shift]));
        Header(place).Id = id;
        return place;
    }

    public ref RowHeader Header(int place) => ref pages[place >> shift].Headers[place & ((1 << shift) - 1)];

    public Span<float> Values(int place) => pages[place >> shift].Values.AsSpan((place & ((1 << shift) - 1)) * rowLength, rowLength);

    public void Clear()
    {
        pages.Clear();
        places.Clear();
    }
}
