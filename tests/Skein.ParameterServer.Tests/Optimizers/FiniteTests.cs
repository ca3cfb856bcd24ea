namespace Skein.ParameterServer.Tests;

public class FiniteTests
{
    // Signalling NaN, and the numbers next to infinity.
    private static readonly float[] NotFinite =
        [float.NaN, -float.NaN, float.PositiveInfinity, float.NegativeInfinity, BitConverter.UInt32BitsToSingle(0x7F80_0001), BitConverter.UInt32BitsToSingle(0xFFBF_FFFF)];

    private static readonly float[] Extreme = [float.MaxValue, float.MinValue, float.Epsilon, -0f];

    [Fact]
    public void One_bad_value_is_found_at_every_position_of_every_length()
    {
        for (int length = 0; length < 150; length++)
        {
            float[] values = [.. Enumerable.Range(0, length).Select(i => Extreme[i % Extreme.Length])];
            Assert.True(Finite.All(values), $"{length} finite values");
            for (int position = 0; position < length; position++)
            {
                float before = values[position];
                foreach (float bad in NotFinite)
                {
                    values[position] = bad;
                    Assert.False(Finite.All(values), $"{bad} at {position} of {length}");
                }

                values[position] = before;
            }
        }
    }
}
