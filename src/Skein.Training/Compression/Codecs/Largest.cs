using System.Buffers;
using System.Numerics;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;

namespace Skein.Training.Compression.Codecs;

/// <summary>Finds the values of largest magnitude in one pass over memory and a little more.</summary>
internal static class Largest
{
    private const int SampleSize = 4096;
    private const uint MagnitudeMask = 0x7FFF_FFFF;

    /// <summary>
    /// Writes the indices of the <paramref name="indices"/>.Length values of largest magnitude, in rising order; of equal
    /// ones at the border the first. Zeros are not selected.
    /// </summary>
    /// <returns>The number of indices: fewer only when fewer values differ from zero.</returns>
    /// <remarks>
    /// A sample's quantile gives a bound that about twice as many values reach as are wanted; the exact border is sought
    /// among those only. Should fewer reach it than are wanted, everything is searched.
    /// </remarks>
    public static int Select(ReadOnlySpan<float> values, Span<int> indices)
    {
        if (indices.IsEmpty) return 0;
        // As integers, magnitudes of finite values have the same order.
        ReadOnlySpan<uint> bits = MemoryMarshal.Cast<float, uint>(values);
        uint bound = SampledBound(bits, indices.Length);
        int[] candidates = ArrayPool<int>.Shared.Rent(values.Length + Vector512<uint>.Count);
        uint[] magnitudes = ArrayPool<uint>.Shared.Rent(values.Length);
        try
        {
            int found = Filter(bits, bound, candidates);
            if (found < indices.Length && bound > 1) found = Filter(bits, 1, candidates);
            if (found <= indices.Length)
            {
                candidates.AsSpan(0, found).CopyTo(indices);
                return found;
            }

            for (int i = 0; i < found; i++) magnitudes[i] = bits[candidates[i]] & MagnitudeMask;
            uint border = NthLargest(magnitudes.AsSpan(0, found), indices.Length);
            int above = 0;
            for (int i = 0; i < found; i++) above += (bits[candidates[i]] & MagnitudeMask) > border ? 1 : 0;
            int atBorder = indices.Length - above;
            int count = 0;
            for (int i = 0; i < found; i++)
            {
                uint magnitude = bits[candidates[i]] & MagnitudeMask;
                if (magnitude > border || (magnitude == border && atBorder-- > 0)) indices[count++] = candidates[i];
            }

            return count;
        }
        finally
        {
            ArrayPool<int>.Shared.Return(candidates);
            ArrayPool<uint>.Shared.Return(magnitudes);
        }
    }

    private static uint SampledBound(ReadOnlySpan<uint> bits, int wanted)
    {
        if (bits.Length <= 4 * SampleSize) return 1;
        Span<uint> sample = stackalloc uint[SampleSize];
        int stride = bits.Length / SampleSize;
        for (int i = 0; i < SampleSize; i++) sample[i] = bits[(int)(((long)i * stride) + (i * 7919L % stride))] & MagnitudeMask;
        int rank = (int)Math.Min(SampleSize, (2.0 * wanted / bits.Length * SampleSize) + 16);
        return rank == SampleSize ? 1 : Math.Max(1, NthLargest(sample, rank));
    }

    /// <summary>The indices, in rising order, of values whose magnitude is at least <paramref name="bound"/>.</summary>
    private static int Filter(ReadOnlySpan<uint> bits, uint bound, int[] found)
    {
        int count = 0, i = 0;
        for (; i <= bits.Length - Vector512<uint>.Count; i += Vector512<uint>.Count)
        {
            Vector512<uint> magnitude = Vector512.Create(bits[i..]) & Vector512.Create(MagnitudeMask);
            uint reached = (uint)Vector512.GreaterThanOrEqual(magnitude, Vector512.Create(bound)).ExtractMostSignificantBits();
            for (; reached != 0; reached &= reached - 1) found[count++] = i + BitOperations.TrailingZeroCount(reached);
        }

        for (; i < bits.Length; i++)
        {
            if ((bits[i] & MagnitudeMask) >= bound) found[count++] = i;
        }

        return count;
    }

    /// <summary>The n-th largest number, n from 1 (Hoare 1961, "Find"); reorders <paramref name="numbers"/>.</summary>
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
