using Skein.Training.LibTorch;

namespace Skein.Training.Tests;

public sealed class CoreShareTests
{
    [Theory]
    // Nothing is bound: the ranks divide what there is.
    [InlineData(1, 8, 8, 8, 8)]
    [InlineData(2, 8, 8, 8, 4)]
    [InlineData(3, 8, 8, 8, 2)]
    [InlineData(4, 2, 2, 2, 1)]
    // Each rank has cores of its own.
    [InlineData(4, 2, 8, 2, 2)]
    [InlineData(2, 1, 2, 1, 1)]
    // Four ranks on two sockets of eight, bound to sockets: two share one.
    [InlineData(4, 8, 16, 8, 4)]
    // A container's quota is that of all ranks.
    [InlineData(2, 16, 16, 4, 2)]
    [InlineData(8, 16, 16, 4, 1)]
    public void Ranks_of_a_host_share_its_cores(int ranks, int allowed, int all, int usable, int expected) =>
        Assert.Equal(expected, CoreShare.Of(ranks, allowed, all, usable));

    [Theory]
    [InlineData("0-3", 4)]
    [InlineData("0,2,4-7\n", 6)]
    [InlineData("\t5", 1)]
    [InlineData("", null)]
    [InlineData("3-1", null)]
    [InlineData("all", null)]
    public void Lists_of_cores_are_counted(string list, int? expected) => Assert.Equal(expected, CoreShare.Count(list));
}
