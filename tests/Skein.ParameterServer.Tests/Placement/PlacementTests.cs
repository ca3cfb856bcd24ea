using FsCheck;
using FsCheck.Fluent;

namespace Skein.ParameterServer.Tests;

public class PlacementTests
{
    private static readonly Config Fixed = Config.QuickThrowOnFailure.WithMaxTest(300).WithReplay(20260301, 1);

    // Lengths around what is split, and far above what one slice may have.
    private static readonly Gen<long> Length = Gen.OneOf(
        Gen.Choose(0, 3000).Select(length => (long)length), Gen.Choose(65_000, 67_000).Select(length => (long)length),
        Gen.Choose(1, int.MaxValue).Select(length => 7L * length));

    // The last parameter leaves no server without anything.
    private static readonly Gen<(ParameterSpec[] Parameters, int Servers, PlacementRule Rule)> Cases =
        from lengths in Length.ArrayOf()
        from servers in Gen.Choose(1, 9)
        from rule in Gen.Elements(PlacementRule.ByLoad, PlacementRule.ConsistentHash)
        select (Specs([.. lengths, 70_001]), servers, rule);

    [Fact]
    public void Every_element_is_placed_once_and_in_order() => ForAll(static (parameters, servers, rule) =>
    {
        Placement placement = Placement.Create(parameters, servers, rule);
        var rest = new Queue<ParameterSlice>(placement.Slices);
        foreach (ParameterSpec parameter in parameters)
        {
            for (long next = 0; next < parameter.Length;)
            {
                ParameterSlice slice = rest.Dequeue();
                if (slice.Parameter != parameter.Name || slice.Start != next || slice.Length < 1 || slice.Length > int.MaxValue / 8) return false;
                next += slice.Length;
                if (next > parameter.Length) return false;
            }
        }

        return rest.Count == 0 && placement.Servers == servers && Enumerable.Range(0, servers).All(server =>
            placement.On(server).SequenceEqual(placement.Slices.Where(slice => slice.Server == server))
            && placement.LoadOf(server) == placement.On(server).Sum(slice => (long)slice.Length));
    });

    [Fact]
    public void Parameters_are_split_evenly_from_65536_elements_on() => ForAll(static (parameters, servers, rule) =>
    {
        Placement placement = Placement.Create(parameters, servers, rule);
        return parameters.Where(parameter => parameter.Length > 0).All(parameter =>
        {
            long[] shares = [.. placement.Slices.Where(slice => slice.Parameter == parameter.Name)
                .GroupBy(slice => slice.Server).Select(held => held.Sum(slice => (long)slice.Length))];
            return parameter.Length < 65_536 ? shares.Length == 1 : shares.Length == servers && shares.Max() - shares.Min() <= 1;
        });
    });

    [Fact]
    public void The_same_arguments_give_the_same_placement() => ForAll(static (parameters, servers, rule) =>
        Placement.Create(parameters, servers, rule).Slices.SequenceEqual(Placement.Create([.. parameters.Select(p => p with { })], servers, rule).Slices));

    [Fact]
    public void By_load_loads_differ_by_one_small_parameter_at_most() => ForAll(static (parameters, servers, _) =>
    {
        Placement placement = Placement.Create(parameters, servers);
        long[] loads = [.. Enumerable.Range(0, servers).Select(placement.LoadOf)];
        // What is split makes servers differ by one element for each.
        long largest = parameters.Where(parameter => parameter.Length < 65_536).Select(parameter => parameter.Length).Append(0).Max();
        return loads.Max() - loads.Min() <= Math.Max(largest, parameters.Count(parameter => parameter.Length >= 65_536));
    });

    [Fact]
    public void By_load_goes_by_size_and_then_by_index()
    {
        Placement placement = Placement.Create([new("a", 1), new("b", 5), new("c", 3), new("d", 3)], 2);

        Assert.Equal([new("a", 0, 1, 0), new("b", 0, 5, 0), new("c", 0, 3, 1), new("d", 0, 3, 1)], placement.Slices);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(4)]
    [InlineData(15)]
    public void Consistent_hashing_moves_only_what_the_new_server_gets(int servers)
    {
        const int Count = 5000;
        ParameterSpec[] parameters = Specs([.. Enumerable.Repeat(10L, Count)]);
        ParameterSlice[] before = [.. Placement.Create(parameters, servers, PlacementRule.ConsistentHash).Slices];
        ParameterSlice[] after = [.. Placement.Create(parameters, servers + 1, PlacementRule.ConsistentHash).Slices];

        int moved = 0;
        for (int i = 0; i < Count; i++)
        {
            if (before[i].Server == after[i].Server) continue;
            Assert.Equal(servers, after[i].Server);
            moved++;
        }

        double expected = (double)Count / (servers + 1);
        Assert.InRange(moved, 0.75 * expected, 1.25 * expected);
    }

    [Fact]
    public void Consistent_hashing_never_changes() => Assert.Equal(
        ExpectedServers,
        Placement.Create(Specs([.. Enumerable.Repeat(1L, 16)]), 3, PlacementRule.ConsistentHash).Slices.Select(slice => slice.Server));

    [Fact]
    public void What_cannot_be_placed_is_named_with_the_remedy()
    {
        Assert.Contains("'w'", Message([new("w", 1), new("w", 2)], 1), StringComparison.Ordinal);
        Assert.Contains("'w' has a length of -1", Message([new("w", -1)], 1), StringComparison.Ordinal);
        Assert.Contains("0 parameter servers", Message([new("w", 1)], 0), StringComparison.Ordinal);
        Assert.Contains("server 2 would hold nothing; use fewer servers", Message([new("v", 1), new("w", 9)], 3), StringComparison.Ordinal);
        Assert.Contains("would hold nothing", Message([], 1), StringComparison.Ordinal);
        Assert.Contains("consistent hashing gives server", Message([new("v", 1), new("w", 9)], 3, PlacementRule.ConsistentHash), StringComparison.Ordinal);
    }

    [Fact]
    public void Is_printed_as_a_table() => Assert.Equal(
        """
        server 0: 35,768 elements (51.8 %)
          embedding         32,768 from 0
          bias               3,000 from 0
        server 1: 33,268 elements (48.2 %)
          embedding         32,768 from 32,768
          w                    500 from 0

        """,
        Placement.Create([new("embedding", 65_536), new("w", 500), new("bias", 3000)], 2).ToString());

    private static readonly int[] ExpectedServers = [1, 0, 1, 0, 0, 0, 0, 0, 2, 1, 2, 2, 1, 2, 2, 2];

    private static void ForAll(Func<ParameterSpec[], int, PlacementRule, bool> property) =>
        Prop.ForAll(Cases.ToArbitrary(), sample => property(sample.Parameters, sample.Servers, sample.Rule)).Check(Fixed);

    private static ParameterSpec[] Specs(long[] lengths) => [.. lengths.Select((length, i) => new ParameterSpec($"layer{i}.weight", length))];

    private static string Message(ParameterSpec[] parameters, int servers, PlacementRule rule = PlacementRule.ByLoad) =>
        Assert.Throws<ArgumentException>(() => Placement.Create(parameters, servers, rule)).Message;
}
