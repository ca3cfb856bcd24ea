using Skein.Training.Meshes;

namespace Skein.Training.Tests.Meshes;

public class DeviceMeshTests
{
    [Theory]
    [InlineData("dp=2,pp=3,tp=2", "dp=2,pp=3,tp=2")]
    [InlineData("tp=2, pp=2", "dp=1,pp=2,tp=2")]
    public void Its_shape_is_read_in_any_order(string text, string written) => Assert.Equal(written, MeshShape.Parse(text).ToString());

    [Theory]
    [InlineData("dp=0", "'dp=0'")]
    [InlineData("dp", "'dp'")]
    [InlineData("ep=2", "'ep=2'")]
    [InlineData("", "''")]
    [InlineData("dp=2,dp=2", "twice")]
    [InlineData("dp=-1", "'dp=-1'")]
    public void What_is_wrong_with_a_shape_is_named(string text, string named) =>
        Assert.Contains(named, Assert.Throws<FormatException>(() => MeshShape.Parse(text)).Message, StringComparison.Ordinal);

    [Fact]
    public void A_product_that_is_not_the_world_size_is_shown() =>
        Assert.Contains("dp(2) * pp(2) * tp(1) = 4 ranks, but the world size is 6", Assert.Throws<ArgumentException>(() => MeshShape.Parse("dp=2,pp=2").Validate(6)).Message, StringComparison.Ordinal);

    [Fact]
    public async Task Subgroups_hold_the_ranks_that_differ_in_one_coordinate()
    {
        var shape = new MeshShape(data: 2, pipeline: 3, tensor: 2);
        int[][] sums = await RankThreads.Run(shape.WorldSize, async group =>
        {
            await using DeviceMesh mesh = await DeviceMesh.CreateAsync(group, shape);
            int[] sums = new int[3];
            for (int i = 0; i < 3; i++)
            {
                Span<int> sum = [group.Rank];
                mesh[shape.Dimensions[i].Name].AllReduce(sum);
                sums[i] = sum[0];
                Assert.Equal(shape.CoordinatesOf(group.Rank)[i], mesh[shape.Dimensions[i].Name].Rank);
            }

            return sums;
        });
        for (int rank = 0; rank < sums.Length; rank++)
        {
            int[] here = shape.CoordinatesOf(rank);
            Assert.Equal(rank, (((here[0] * 3) + here[1]) * 2) + here[2]);
            for (int dimension = 0; dimension < 3; dimension++)
            {
                int expected = Enumerable.Range(0, shape.WorldSize)
                    .Where(other => shape.CoordinatesOf(other).Index().All(entry => entry.Index == dimension || entry.Item == here[entry.Index]))
                    .Sum();
                Assert.Equal(expected, sums[rank][dimension]);
            }
        }
    }
}
