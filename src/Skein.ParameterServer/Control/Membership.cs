namespace Skein.ParameterServer.Control;

/// <summary>
/// The rules of a job's membership: who may join, what the loss of a member means, and when the job has failed or
/// finished. Both are final: afterwards nothing changes. Times count from the job's start. Not thread-safe.
/// </summary>
internal sealed class Membership(CoordinatorOptions options)
{
    // A coordinator that was itself held up for longer than this has not read what the members said meanwhile.
    private static readonly TimeSpan LongestTick = TimeSpan.FromSeconds(1);

    private readonly ShardMap shards = new(options.Servers, options.Replicas);
    private readonly SortedDictionary<int, Member> workers = [];
    private TimeSpan lastTick;
    private bool complete;
    private bool closed;

    /// <summary>The job's state as members see it; another object after every change.</summary>
    public JobView View { get; private set; } = new() { Settings = options.Settings };

    /// <summary>The workers that everybody's contribution is waited for: those alive, and those that the job still expects.</summary>
    public IReadOnlyCollection<int> AwaitedWorkers => [.. View.Workers.Concat(MissingWorkers).Order()];

    private IEnumerable<int> MissingWorkers => Enumerable.Range(0, options.Workers).Where(rank => !workers.ContainsKey(rank));

    /// <summary>Gives a process its place in the job.</summary>
    /// <exception cref="ParameterServerException">It has none; says why.</exception>
    public Member Register(Registration registration, TimeSpan now)
    {
        if (View.Failure is { } failure) throw new ParameterServerException(failure);
        if (View.Finished) throw new ParameterServerException("the job has finished: nobody can join it any more");
        Member member = registration switch
        {
            ServerRegistration server => shards.Add(server, now),
            WorkerRegistration worker => AddWorker(worker, now),
            _ => throw new ArgumentException($"{registration.GetType().Name} is not a role", nameof(registration)),
        };
        complete = shards.IsReady && !MissingWorkers.Any();
        Change(View);
        return member;
    }

    /// <summary>From now on no worker joins in addition.</summary>
    public void Close() => closed = true;

    /// <summary>Takes note that a member lives.</summary>
    public static void Hear(Member member, TimeSpan now) => member.LastHeard = now;

    /// <summary>A member finished well. A server has to stay until all workers have left.</summary>
    public void Leave(Member member)
    {
        if (member.Registration is ServerRegistration && !View.HasEnded)
        {
            Lose(member, "it left before the workers had");
            return;
        }

        if (member.State != MemberState.Alive) return;
        member.State = MemberState.Left;
        if (!View.HasEnded) Change(View);
    }

    /// <summary>A member cannot go on.</summary>
    public void Fail(Member member, string message)
    {
        if (member.State == MemberState.Alive) Fail(message.StartsWith($"{member.Name} ", StringComparison.Ordinal) ? message : $"{member.Name}: {message}");
    }

    /// <summary>The job cannot go on.</summary>
    public void Fail(string message)
    {
        if (!View.HasEnded) Change(View with { Failure = message });
    }

    /// <summary>A member is gone without having left.</summary>
    public void Lose(Member member, string reason)
    {
        if (member.State != MemberState.Alive) return;
        member.State = MemberState.Lost;
        member.LossReason = reason;
        if (View.HasEnded) return;
        string? failure = member.Registration is ServerRegistration ? shards.Remove(member, reason)
            : options.Elastic && member.Id != 0 ? null
            : $"{member} was lost: {reason}; {(options.Elastic ? "worker 0 leads and cannot be replaced: start the job again" : "start the job again, with --balance if it is to go on without a worker")}";
        Change(View with { Failure = failure });
    }

    /// <summary>A process of this host has ended: nobody need wait any longer for it to register.</summary>
    public void ReportEnded(int processId, string what)
    {
        bool registered = shards.Servers.Concat(workers.Values).Any(
            member => member.Registration.ProcessId == processId && member.Registration.HostName == Environment.MachineName);
        if (!complete && !registered) Fail($"{what} before it had joined the job");
    }

    /// <summary>Looks who has been silent or missing for too long.</summary>
    public void Tick(TimeSpan now)
    {
        TimeSpan gap = now - lastTick;
        lastTick = now;
        foreach (Member member in shards.Servers.Concat(workers.Values).Where(member => member.State == MemberState.Alive).ToArray())
        {
            if (gap > LongestTick) member.LastHeard += gap;
            TimeSpan limit = member.Registration is ServerRegistration ? options.ServerHeartbeatTimeout : options.WorkerHeartbeatTimeout;
            if (now - member.LastHeard > limit) Lose(member, $"it has not been heard of for {limit.TotalSeconds:0.###} s");
        }

        if (!complete && now > options.Timeout)
        {
            Fail($"waited {options.Timeout.TotalSeconds:0.###} s for {DescribeMissing()} to register; see their logs, or raise SKEIN_TIMEOUT_SECONDS");
        }
    }

    private Member AddWorker(WorkerRegistration registration, TimeSpan now)
    {
        int rank = registration.Rank;
        string process = $"process {registration.ProcessId} on {registration.HostName} cannot join";
        if (rank == WorkerRegistration.Extra)
        {
            if (!options.Elastic)
            {
                throw new ParameterServerException(
                    $"{process}: this job divides its data among {options.Workers} workers beforehand; start it with --balance so that workers can join");
            }

            if (closed) throw new ParameterServerException($"{process}: the workers of this job have finished their training");
            rank = Math.Max(options.Workers, workers.Keys.LastOrDefault() + 1);
        }
        else if (rank < 0 || rank >= options.Workers)
        {
            throw new ParameterServerException($"{process} as worker {rank}: the workers of this job are 0 to {options.Workers - 1}");
        }
        else if (workers.TryGetValue(rank, out Member? other))
        {
            // An id is not used again: servers drop what comes twice from one worker.
            throw new ParameterServerException(
                $"{process} as worker {rank}: {other} has "
                + (other.State == MemberState.Alive ? "joined; two processes were started with this rank" : "joined and is gone; join as an extra worker instead"));
        }

        var member = new Member(rank, registration, $"worker {rank}", now);
        workers.Add(rank, member);
        return member;
    }

    private void Change(JobView next)
    {
        int[] alive = [.. workers.Values.Where(worker => worker.State == MemberState.Alive).Select(worker => worker.Id)];
        View = next with
        {
            Generation = shards.Generation,
            Shards = shards.View,
            Ready = shards.IsReady,
            Workers = alive,
            Finished = next.Finished || (next.Failure is null && alive.Length == 0 && workers.Count > 0 && !MissingWorkers.Any()),
        };
    }

    private string DescribeMissing()
    {
        int registered = shards.Servers.Count;
        string servers = Numbers("server", Enumerable.Range(registered + 1, shards.Expected - registered));
        if (servers.Length > 0) servers += $" of {shards.Expected}";
        string missing = Numbers("worker", MissingWorkers);
        return servers.Length > 0 && missing.Length > 0 ? $"{servers} and {missing}" : servers + missing;
    }

    private static string Numbers(string noun, IEnumerable<int> numbers)
    {
        int[] list = [.. numbers];
        return list.Length == 0 ? "" : $"{noun}{(list.Length > 1 ? "s" : "")} {string.Join(", ", list)}";
    }
}
