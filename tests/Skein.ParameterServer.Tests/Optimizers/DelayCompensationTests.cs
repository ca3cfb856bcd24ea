namespace Skein.ParameterServer.Tests;

public class DelayCompensationTests
{
    [Fact]
    public void Equals_equation_10_in_double_precision()
    {
        for (int length = 0; length < 70; length++)
        {
            float[] gradient = Numbers.Random(length, length), current = Numbers.Random(length + 100, length), pulled = Numbers.Random(length + 200, length);
            double[] expected = [.. gradient.Select((g, i) => g + (0.04 * g * g * ((double)current[i] - pulled[i])))];

            DelayCompensation.Apply(gradient, current, pulled, 0.04f);

            Numbers.AssertClose(expected, gradient, 1e-6, 1e-7);
        }
    }

    [Fact]
    public void A_gradient_that_is_not_late_stays_as_it_is()
    {
        float[] gradient = Numbers.Random(1, 50), parameters = Numbers.Random(2, 50);
        float[] before = [.. gradient];

        DelayCompensation.Apply(gradient, parameters, parameters, 2);

        Assert.Equal(before, gradient);
    }

    [Fact]
    public void Lengths_that_differ_are_refused() =>
        Assert.Throws<ArgumentException>(() => DelayCompensation.Apply(new float[3], new float[3], new float[4], 1));
}
