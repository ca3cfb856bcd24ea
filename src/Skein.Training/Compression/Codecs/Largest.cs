using System.Buffers;
using System.Numerics;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Skein.Training.Compression.Codecs;

/// <summary>The values of largest magnitude, found in one pass over memory and a little more. Valid until it is disposed.</summary>
/// <remarks>
/// Two quantiles of a sample enclose the border with near certainty (Floyd and Rivest 1975, "Expected time bounds for
/// selection"): what reaches the lower one is collected, and the exact border sought among the few between both. Where the
/// sample misled, more is searched.
/// </remarks>
internal readonly ref struct Largest : IDisposable
{
    private const int LargestSample = 1 << 14;
    private const int ValuesPerSample = 64;
    private const uint MagnitudeMask = 0x7FFF_FFFF;

    private readonly int[] indices;
    private readonly uint[] bits;
    private readonly int count;

    /// <summary>Finds the <paramref name="wanted"/> values of largest magnitude; of equal ones at the border the first. Zeros are left out.</summary>
    public Largest(ReadOnlySpan<float> values, int wanted)
    {
        // A vector is stored whole, whatever part of it was wanted.
        indices = ArrayPool<int>.Shared.Rent(values.Length + Vector512<uint>.Count);
        bits = ArrayPool<uint>.Shared.Rent(values.Length + Vector512<uint>.Count);
        if (wanted == 0) return;
        uint[] scratch = ArrayPool<uint>.Shared.Rent(Math.Max(values.Length, LargestSample));
        // As integers, magnitudes of finite values have the same order.
        ReadOnlySpan<uint> all = MemoryMarshal.Cast<float, uint>(values);
        (uint lower, uint upper) = Enclose(all, wanted, scratch);
        count = Collect(all, lower);
        if (count < wanted && lower > 1)
        {
            count = Collect(all, 1);
            upper = lower - 1;
        }

        if (count > wanted) count = Cut(wanted, upper, scratch);
        ArrayPool<uint>.Shared.Return(scratch);
    }

    /// <summary>Where they stand, in rising order.</summary>
    public ReadOnlySpan<int> Indices => indices.AsSpan(0, count);

    /// <summary>The values; the caller may overwrite them.</summary>
    public Span<float> Values => MemoryMarshal.Cast<uint, float>(bits.AsSpan(0, count));

    public void Dispose()
    {
        ArrayPool<int>.Shared.Return(indices);
        ArrayPool<uint>.Shared.Return(bits);
    }

    /// <summary>Bounds, from 1 up, between which the border is likely.</summary>
    private static (uint Lower, uint Upper) Enclose(ReadOnlySpan<uint> all, int wanted, Span<uint> scratch)
    {
        Span<uint> sample = scratch[..Math.Min(all.Length / ValuesPerSample, LargestSample)];
        if (sample.IsEmpty) return (1, MagnitudeMask);
        int stride = all.Length / sample.Length;
        for (int i = 0; i < sample.Length; i++) sample[i] = all[(int)(((long)i * stride) + (i * 7919L % stride))] & MagnitudeMask;

        // The rank in the sample is nearly Poisson distributed: four deviations, and a little for small numbers.
        double rank = (double)wanted / all.Length * sample.Length;
        double margin = (4 * Math.Sqrt(rank)) + 8;
        int low = (int)(rank + margin), high = (int)(rank - margin);
        if (low >= sample.Length) return (1, MagnitudeMask);
        uint lower = NthLargest(sample, low);
        uint upper = high < 1 ? MagnitudeMask : NthLargest(sample[..low], high);
        return (Math.Max(1, lower), upper);
    }

    /// <summary>Takes the values whose magnitude is at least <paramref name="bound"/>.</summary>
    /// <returns>How many there are.</returns>
    private int Collect(ReadOnlySpan<uint> all, uint bound)
    {
        int found = 0, i = 0;
        if (Avx512F.IsSupported)
        {
            for (; i <= all.Length - Vector512<uint>.Count; i += Vector512<uint>.Count)
            {
                Vector512<uint> next = Vector512.Create(all[i..]);
                Vector512<uint> reached = Vector512.GreaterThanOrEqual(next & Vector512.Create(MagnitudeMask), Vector512.Create(bound));
                Avx512F.Compress(Vector512<uint>.Zero, reached, next).CopyTo(bits, found);
                Avx512F.Compress(Vector512<int>.Zero, reached.AsInt32(), Vector512<int>.Indices + Vector512.Create(i)).CopyTo(indices, found);
                found += BitOperations.PopCount(reached.ExtractMostSignificantBits());
            }
        }

        // No branch depends on the values: it could not be predicted.
        for (; i < all.Length; i++)
        {
            bits[found] = all[i];
            indices[found] = i;
            found += (all[i] & MagnitudeMask) >= bound ? 1 : 0;
        }

        return found;
    }

    /// <summary>Leaves the wanted ones of those collected, which are more.</summary>
    private int Cut(int wanted, uint upper, Span<uint> scratch)
    {
        int found = count, above = 0;
        for (int i = 0; i < found; i++) above += (bits[i] & MagnitudeMask) > upper ? 1 : 0;
        bool isAbove = above >= wanted;
        int between = 0;
        for (int i = 0; i < found; i++)
        {
            uint magnitude = bits[i] & MagnitudeMask;
            scratch[between] = magnitude;
            between += (magnitude > upper) == isAbove ? 1 : 0;
        }

        uint border = NthLargest(scratch[..between], isAbove ? wanted : wanted - above);
        int atBorder = wanted;
        for (int i = 0; i < found; i++) atBorder -= (bits[i] & MagnitudeMask) > border ? 1 : 0;
        int kept = 0;
        for (int i = 0; i < found; i++)
        {
            uint magnitude = bits[i] & MagnitudeMask;
            bits[kept] = bits[i];
            indices[kept] = indices[i];
            if (magnitude == border) kept += atBorder-- > 0 ? 1 : 0;
            else kept += magnitude > border ? 1 : 0;
        }

        return kept;
    }

    /// <summary>The n-th largest number, n from 1 (Hoare 1961, "Find"); reorders <paramref name="numbers"/>, the n largest to the front.</summary>
    private static uint NthLargest(Span<uint> numbers, int n)
    {
        int low = 0, high = numbers.Length - 1, wanted = n - 1;
        while (low < high)
        {
            uint pivot = Median(numbers[low], numbers[low + ((high - low) / 2)], numbers[high]);
            int i = low, j = high;
            while (i <= j)
            {
                while (numbers[i] > pivot) i++;
                while (numbers[j] < pivot) j--;
                if (i > j) break;
                (numbers[i], numbers[j]) = (numbers[j], numbers[i]);
                i++;
                j--;
            }

            if (wanted <= j) high = j;
            else if (wanted >= i) low = i;
            else return pivot;
        }

        return numbers[wanted];
    }

    private static uint Median(uint a, uint b, uint c) => Math.Max(Math.Min(a, b), Math.Min(Math.Max(a, b), c));
}
