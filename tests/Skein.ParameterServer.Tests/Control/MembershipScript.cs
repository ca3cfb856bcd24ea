using Skein.ParameterServer.Control;

namespace Skein.ParameterServer.Tests.Control;

/// <summary>Plays what happens to a job's members, and checks what then has to hold.</summary>
internal sealed class MembershipScript(CoordinatorOptions options)
{
    private readonly List<Member> members = [];

    public Membership Membership { get; } = new(options);

    public JobView View => Membership.View;

    public IReadOnlyCollection<int> Awaited => Membership.AwaitedWorkers;

    private Member[] Servers => [.. members.Where(member => member.Registration is ServerRegistration)];

    private Member[] Workers => [.. members.Where(member => member.Registration is WorkerRegistration)];

    public Member Server() => Add(new ServerRegistration("127.0.0.1", 1, 2) { ProcessId = 100 + Servers.Length, HostName = "host" });

    public Member Worker(int rank) => Add(new WorkerRegistration(rank) { ProcessId = 200 + rank, HostName = "host" });

    public void Depart(Departure departure) => Membership.Depart(departure with { HostName = "host" });

    public void Play(int what, int whom)
    {
        Member? member = members.Count > 0 ? members[whom % members.Count] : null;
        try
        {
            _ = what switch
            {
                0 or 1 or 2 => Server(),
                3 or 4 => Worker((whom % (options.Workers + 1)) - 1),
                _ => null,
            };
        }
        catch (ParameterServerException)
        {
            // Refused, which must not have changed anything that matters.
        }

        if (member is null) return;
        if (what == 5) Membership.Leave(member);
        if (what == 6) Membership.Lose(member, "gone");
        if (what == 7 && whom % 5 == 0) Membership.Fail(member, "broken");
    }

    public bool IsSound(JobView before)
    {
        if (View.Failure is not null) return !View.Finished;
        int[] alive = [.. Workers.Where(worker => worker.State == MemberState.Alive).Select(worker => worker.Id).Order()];
        int[] serving = [.. View.Shards.SelectMany(shard => new[] { shard.Primary, shard.Backup }).OfType<ServerView>().Select(server => server.Id).Order()];
        bool allCame = Enumerable.Range(0, options.Workers).All(rank => Workers.Any(worker => worker.Id == rank));
        return View.Workers.SequenceEqual(alive)
            && serving.SequenceEqual(Servers.Where(server => server.State == MemberState.Alive).Select(server => server.Id).Order())
            && View.Shards.All(shard => shard.Primary.Id % options.Servers == shard.Index)
            && View.Generation >= before.Generation
            && (View.Generation > before.Generation) == !View.Shards.SequenceEqual(before.Shards)
            && before.Shards.All(old => View.Shards[old.Index].Generation == old.Generation + (View.Shards[old.Index].Primary == old.Primary ? 0 : 1))
            && View.Finished == (allCame && alive.Length == 0)
            && Workers.All(worker => worker.State != MemberState.Lost || (options.Elastic && worker.Id != 0))
            && Workers.Select(worker => worker.Id).Distinct().Count() == Workers.Length;
    }

    private Member Add(Registration registration)
    {
        Member member = Membership.Register(registration, TimeSpan.Zero);
        members.Add(member);
        return member;
    }
}
