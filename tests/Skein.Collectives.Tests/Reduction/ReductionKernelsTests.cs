using System.Runtime.InteropServices;
using Skein.Collectives.Reduction;

namespace Skein.Collectives.Tests.Reduction;

public sealed unsafe class ReductionKernelsTests
{
    public static TheoryData<ElementType, ReduceOperation> TypesAndOperations()
    {
        TheoryData<ElementType, ReduceOperation> data = [];
        foreach (ElementType type in Enum.GetValues<ElementType>())
        {
            foreach (ReduceOperation operation in Enum.GetValues<ReduceOperation>()) data.Add(type, operation);
        }

        return data;
    }

    [Theory]
    [MemberData(nameof(TypesAndOperations))]
    public void Equals_the_scalar_reference_for_every_count_offset_and_number_of_sources(ElementType type, ReduceOperation operation)
    {
        switch (type)
        {
            case ElementType.Float32: CheckAll<float>(operation); break;
            case ElementType.Float64: CheckAll<double>(operation); break;
            case ElementType.Float16: CheckAll<Half>(operation); break;
            case ElementType.BFloat16: CheckAll<BFloat16>(operation); break;
            case ElementType.Int32: CheckAll<int>(operation); break;
            case ElementType.Int64: CheckAll<long>(operation); break;
            default: CheckAll<byte>(operation); break;
        }
    }

    private static void CheckAll<T>(ReduceOperation operation) where T : unmanaged
    {
        Random random = new(20);
        for (int count = 0; count <= 257; count++)
        {
            int divisor = operation == ReduceOperation.Average ? 1 + count % 4 : 1;
            Check<T>(operation, random, count, sourceCount: 1 + count % 6, divisor);
        }

        int longAverage = operation == ReduceOperation.Average ? 300 : 1;
        Check<T>(operation, random, 5_003, sourceCount: 3, longAverage);
    }

    /// <summary>The same data at an odd offset, into a fresh destination and onto each of the sources.</summary>
    private static void Check<T>(ReduceOperation operation, Random random, int count, int sourceCount, int divisor) where T : unmanaged
    {
        int offset = random.Next(1, 9);
        T[][] contributions = new T[sourceCount][];
        for (int s = 0; s < sourceCount; s++)
        {
            contributions[s] = new T[count];
            for (int i = 0; i < count; i++) contributions[s][i] = ScalarReference.Random<T>(random);
        }

        long[] expected = new long[count];
        T[] column = new T[sourceCount];
        for (int i = 0; i < count; i++)
        {
            for (int s = 0; s < sourceCount; s++) column[s] = contributions[s][i];
            expected[i] = ScalarReference.Bits(ScalarReference.Reduce<T>(operation, column, divisor));
        }

        for (int alias = -1; alias < sourceCount; alias++)
        {
            // One guard element before and behind the destination shows writes out of bounds.
            T guard = ScalarReference.Random<T>(random);
            T[][] memory = new T[sourceCount + 1][];
            GCHandle[] pins = new GCHandle[sourceCount + 1];
            nint[] sources = new nint[sourceCount];
            for (int s = 0; s <= sourceCount; s++)
            {
                memory[s] = new T[offset + count + 1];
                Array.Fill(memory[s], guard);
                if (s < sourceCount) contributions[s].CopyTo(memory[s], offset);
                pins[s] = GCHandle.Alloc(memory[s], GCHandleType.Pinned);
                if (s < sourceCount) sources[s] = pins[s].AddrOfPinnedObject() + offset * sizeof(T);
            }

            int target = alias < 0 ? sourceCount : alias;
            void* destination = (void*)(pins[target].AddrOfPinnedObject() + offset * sizeof(T));
            ReductionKernels.Reduce(ElementTypes.Of<T>(), operation, destination, sources, count, divisor);
            foreach (var pin in pins) pin.Free();

            for (int i = 0; i < count; i++)
            {
                if (ScalarReference.Bits(memory[target][offset + i]) == expected[i]) continue;
                Assert.Fail($"{operation} of {typeof(T).Name}, count {count}, {sourceCount} sources, onto {alias}, divisor {divisor}: " +
                    $"[{i}] is {memory[target][offset + i]} from {string.Join(", ", contributions.Select(c => c[i]))}");
            }

            Assert.Equal(ScalarReference.Bits(guard), ScalarReference.Bits(memory[target][offset - 1]));
            Assert.Equal(ScalarReference.Bits(guard), ScalarReference.Bits(memory[target][offset + count]));
            for (int s = 0; s < sourceCount; s++)
            {
                if (s != target) Assert.Equal(contributions[s].Select(ScalarReference.Bits), memory[s].AsSpan(offset, count).ToArray().Select(ScalarReference.Bits));
            }
        }
    }

    [Fact]
    public void Minimum_and_maximum_order_the_zeros_and_keep_nan()
    {
        float[] left = [-0f, 0f, float.NaN, 1f, float.NegativeInfinity];
        float[] right = [0f, -0f, 1f, float.NaN, float.PositiveInfinity];
        Assert.Equal([-0f, -0f, float.NaN, float.NaN, float.NegativeInfinity], Accumulate(ReduceOperation.Min, left, right));
        Assert.Equal([0f, 0f, float.NaN, float.NaN, float.PositiveInfinity], Accumulate(ReduceOperation.Max, left, right));
        Assert.True(float.IsNegative(Accumulate(ReduceOperation.Min, left, right)[1]));
        Assert.False(float.IsNegative(Accumulate(ReduceOperation.Max, left, right)[0]));
    }

    [Fact]
    public void A_result_does_not_depend_on_the_position()
    {
        Random random = new(7);
        float[] left = new float[999], right = new float[999];
        for (int i = 0; i < left.Length; i++)
        {
            left[i] = ScalarReference.Random<float>(random);
            right[i] = ScalarReference.Random<float>(random);
        }

        foreach (ReduceOperation operation in Enum.GetValues<ReduceOperation>())
        {
            float[] whole = Accumulate(operation, left, right);
            for (int start = 0; start < 70; start++)
            {
                float[] part = Accumulate(operation, left[start..(start + 101)], right[start..(start + 101)]);
                Assert.Equal(
                    whole[start..(start + 101)].Select(BitConverter.SingleToUInt32Bits),
                    part.Select(BitConverter.SingleToUInt32Bits));
            }
        }
    }

    [Fact]
    public void Sixteen_bit_floats_are_rounded_once()
    {
        // 2048 + 1 rounds back to 2048 in binary16 (ties to even), so rounding each step would lose both ones.
        Half[] sum = [(Half)2048, (Half)1, (Half)1];
        fixed (Half* p = sum)
        {
            ReductionKernels.Reduce(ElementType.Float16, ReduceOperation.Sum, p, [(nint)p, (nint)(p + 1), (nint)(p + 2)], 1);
        }

        Assert.Equal((Half)2050, sum[0]);

        BFloat16[] brain = [(BFloat16)256f, (BFloat16)1f, (BFloat16)1f];
        fixed (BFloat16* p = brain)
        {
            ReductionKernels.Reduce(ElementType.BFloat16, ReduceOperation.Sum, p, [(nint)p, (nint)(p + 1), (nint)(p + 2)], 1);
        }

        Assert.Equal(258f, (float)brain[0]);
    }

    [Fact]
    public void Every_sixteen_bit_pattern_survives_widening_and_rounding()
    {
        // Divided by 1, a buffer is widened and narrowed: only the payload of a NaN may change.
        foreach (ElementType type in new[] { ElementType.Float16, ElementType.BFloat16 })
        {
            ushort infinity = type == ElementType.Float16 ? (ushort)0x7C00 : (ushort)0x7F80;
            ushort[] buffer = [.. Enumerable.Range(0, 65536).Select(i => (ushort)i)];
            fixed (ushort* p = buffer) ReductionKernels.Divide(type, p, buffer.Length, 1);
            for (int i = 0; i < buffer.Length; i++)
            {
                if ((i & 0x7FFF) > infinity) Assert.InRange(buffer[i] & 0x7FFF, infinity + 1, 0x7FFF);
                else Assert.Equal(i, buffer[i]);
            }
        }
    }

    [Fact]
    public void Narrowing_rounds_to_nearest_even_like_the_framework()
    {
        // Sums of two halves reach every rounding case: ties, carries into the exponent, overflow, subnormal results.
        Random random = new(11);
        Half[] left = new Half[200_000], right = new Half[left.Length];
        for (int i = 0; i < left.Length; i++)
        {
            left[i] = BitConverter.UInt16BitsToHalf((ushort)random.Next(0x7C00));
            right[i] = BitConverter.UInt16BitsToHalf((ushort)(BitConverter.HalfToUInt16Bits(left[i]) + random.Next(-0x4000, 0x4000)));
        }

        Half[] sums = [.. left], products = [.. left];
        fixed (Half* s = sums)
        fixed (Half* p = products)
        fixed (Half* r = right)
        {
            ReductionKernels.Accumulate(ElementType.Float16, ReduceOperation.Sum, s, r, sums.Length);
            ReductionKernels.Accumulate(ElementType.Float16, ReduceOperation.Product, p, r, products.Length);
        }

        for (int i = 0; i < left.Length; i++)
        {
            Assert.Equal((Half)((float)left[i] + (float)right[i]), sums[i]);
            Assert.Equal((Half)((float)left[i] * (float)right[i]), products[i]);
        }
    }

    [Fact]
    public void Divide_truncates_integers_towards_zero()
    {
        int[] values = [7, -7, 6, -6, int.MinValue, 0, 1, -1];
        fixed (int* p = values) ReductionKernels.Divide(ElementType.Int32, p, values.Length, 4);
        Assert.Equal([1, -1, 1, -1, int.MinValue / 4, 0, 0, 0], values);
    }

    private static float[] Accumulate(ReduceOperation operation, float[] left, float[] right)
    {
        float[] result = [.. left];
        fixed (float* a = result)
        fixed (float* b = right)
        {
            ReductionKernels.Accumulate(ElementType.Float32, operation, a, b, result.Length);
        }

        return result;
    }
}
