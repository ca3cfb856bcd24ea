using Skein.Training.Planning;

namespace Skein.Training.Tests.Planning;

public class CollectiveVolumeTests
{
    // Patarasuk and Yuan 2009: a ring sends 2(N - 1)/N of the buffer in 2(N - 1) messages, half of that for each of its halves.
    [Theory]
    [InlineData(CollectiveKind.AllReduce, 4, 1.5, 6)]
    [InlineData(CollectiveKind.ReduceScatter, 4, 0.75, 3)]
    [InlineData(CollectiveKind.AllGather, 4, 0.75, 3)]
    [InlineData(CollectiveKind.AllReduce, 2, 1, 2)]
    [InlineData(CollectiveKind.SendReceive, 2, 1, 1)]
    [InlineData(CollectiveKind.AllReduce, 1, 0, 0)]
    public void Over_a_network_they_are_those_of_a_ring(CollectiveKind kind, int ranks, double part, int messages)
    {
        Assert.Equal(part * 1000, CollectiveVolume.BytesSent(kind, ranks, 1000), 1e-9);
        Assert.Equal(messages, CollectiveVolume.Steps(kind, ranks));
    }

    [Fact]
    public void Over_a_link_latency_and_bytes_add_up()
    {
        CollectiveCosts link = CollectiveCosts.OfLink(bytesPerSecond: 1e6, latency: 0.01);
        Assert.Equal((6 * 0.01) + 1.5, link.Seconds(CollectiveKind.AllReduce, 4, 1e6), 1e-9);
        Assert.Equal(0, link.Seconds(CollectiveKind.AllReduce, 1, 1e6));
    }

    [Fact]
    public void Measured_costs_give_the_measurements_back()
    {
        CollectiveCosts costs = CollectiveCosts.Measured(3, sharedMemory: false, new Dictionary<CollectiveKind, ((double, double), (double, double))>
        {
            [CollectiveKind.AllGather] = ((3e3, 0.002), (3e6, 0.05)),
        });
        Assert.Equal(0.002, costs.Seconds(CollectiveKind.AllGather, 3, 3e3), 1e-9);
        Assert.Equal(0.05, costs.Seconds(CollectiveKind.AllGather, 3, 3e6), 1e-9);
    }
}
