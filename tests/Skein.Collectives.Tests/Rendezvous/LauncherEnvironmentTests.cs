using Skein.Collectives.Rendezvous;

namespace Skein.Collectives.Tests.Rendezvous;

public sealed class LauncherEnvironmentTests
{
    [Fact]
    public void A_process_that_no_launcher_started_is_alone()
    {
        var options = Read();
        Assert.False(HasRank());
        Assert.Equal((0, 1, 0, 1), Place(options));
        Assert.Equal(TimeSpan.FromSeconds(300), options.Timeout);
        Assert.Null(options.Secret);
    }

    [Fact]
    public void Torchruns_variables_are_read()
    {
        string[] environment =
        [
            "RANK=5", "WORLD_SIZE=8", "LOCAL_RANK=1", "LOCAL_WORLD_SIZE=4", "MASTER_ADDR=node7", "MASTER_PORT=29500",
            "SKEIN_LAUNCHER_STORE=1", "SKEIN_JOB_ID=j1", "SKEIN_TIMEOUT_SECONDS=2.5", "SKEIN_TRANSPORT=shm",
            "SKEIN_ALGORITHM=halving-doubling", "SKEIN_RUN_DIR=/run/x", "SKEIN_REDIS_STORE=localhost:6379",
            "SKEIN_JOB_SECRET=000102030405060708090a0b0c0d0e0f",
        ];
        var options = Read(environment);
        Assert.True(HasRank(environment));
        Assert.Equal((5, 8, 1, 4), Place(options));
        Assert.Equal(("node7", 29500), (options.MasterAddress, options.MasterPort));
        Assert.True(options.StoreHostedByLauncher);
        Assert.Equal("j1", options.JobId);
        Assert.Equal(TimeSpan.FromSeconds(2.5), options.Timeout);
        Assert.Equal(TransportKind.SharedMemory, options.Transport);
        Assert.Equal(AllReduceAlgorithm.HalvingDoubling, options.Algorithm);
        Assert.Equal("/run/x", options.FlightRecorderDirectory);
        Assert.Equal("localhost:6379", options.RedisStore);
        Assert.Equal("000102030405060708090a0b0c0d0e0f", options.Secret!.ToHex());
    }

    [Theory]
    [InlineData("127.0.0.1", 2, 4)]
    [InlineData("otherhost", 0, 1)]
    public void Without_local_variables_all_ranks_are_local_only_if_the_master_is(string master, int localRank, int localSize) =>
        Assert.Equal((2, 4, localRank, localSize), Place(Read("RANK=2", "WORLD_SIZE=4", $"MASTER_ADDR={master}", "MASTER_PORT=1234")));

    [Fact]
    public void Open_mpis_variables_come_before_those_of_the_slurm_job_that_mpirun_runs_in() =>
        Assert.Equal((3, 4, 1, 2), Place(Read(
            "OMPI_COMM_WORLD_RANK=3", "OMPI_COMM_WORLD_SIZE=4", "OMPI_COMM_WORLD_LOCAL_RANK=1", "OMPI_COMM_WORLD_LOCAL_SIZE=2",
            "SLURM_PROCID=1", "SLURM_NTASKS=2", "SLURM_LOCALID=0")));

    [Fact]
    public void Mpichs_variables_come_before_those_of_the_slurm_task_that_is_its_process_manager() =>
        Assert.Equal((3, 4, 1, 2), Place(Read(
            "PMI_RANK=3", "PMI_SIZE=4", "MPI_LOCALRANKID=1", "MPI_LOCALNRANKS=2", "SLURM_PROCID=1", "SLURM_NTASKS=2")));

    [Fact]
    public void Slurms_task_finds_its_layout_and_its_master()
    {
        string[] environment =
        [
            "SLURM_PROCID=4", "SLURM_STEP_NUM_TASKS=7", "SLURM_NTASKS=9", "SLURM_LOCALID=0", "SLURM_NODEID=2",
            "SLURM_STEP_TASKS_PER_NODE=2(x3),1", "SLURM_STEP_NODELIST=gpu[003-005,9],login1", "SLURM_JOB_ID=1000", "SLURM_STEP_ID=2",
        ];
        var options = Read(environment);
        Assert.Equal((4, 7, 0, 2), Place(options));
        Assert.Equal("gpu003", options.MasterAddress);
        Assert.Equal(20_000 + (((1000 * 31) + 2) % 12_000), options.MasterPort);
        Assert.Equal(("h", 77), Read([.. environment, "MASTER_ADDR=h", "MASTER_PORT=77"]) is var o ? (o.MasterAddress, o.MasterPort) : default);
    }

    [Fact]
    public void A_slurm_batch_script_is_no_task() =>
        Assert.False(HasRank("SLURM_PROCID=0", "SLURM_NTASKS=4", "ENVIRONMENT=BATCH"));

    [Theory]
    [InlineData("node1", "node1")]
    [InlineData("node1,node2", "node1 node2")]
    [InlineData("tux[08-11]-ib,x", "tux08-ib tux09-ib tux10-ib tux11-ib x")]
    [InlineData("a,b[1-2,7]", "a b1 b2 b7")]
    [InlineData("n[7]", "n7")]
    [InlineData("r[1-2]n[0-1]", "r1n0 r1n1 r2n0 r2n1")]
    public void The_hosts_of_a_list(string list, string hosts) => Assert.Equal(hosts.Split(' '), Slurm.Hosts(list));

    [Theory]
    [InlineData("n[1-2")]
    [InlineData("n[a-b]")]
    [InlineData("n[0-99999999]")]
    public void A_malformed_list_of_hosts_is_shown(string list) =>
        Assert.Contains($"the list of Slurm's nodes is '{list}'", Assert.Throws<RendezvousException>(() => Slurm.Hosts(list)).Message);

    [Theory]
    [InlineData(0, "n2")]
    [InlineData(1, "n1,n2,n3")]
    public void Tasks_that_are_placed_one_by_one_ask_every_node_for_rank_0_which_listens_on_its_own(int rank, string master) =>
        Assert.Equal(master, Read(
            $"SLURM_PROCID={rank}", "SLURM_STEP_NUM_TASKS=3", "SLURM_LOCALID=0", "SLURM_NODEID=1", "SLURM_STEP_TASKS_PER_NODE=1(x3)",
            "SLURM_STEP_NODELIST=n[1-3]", "SLURM_DISTRIBUTION=arbitrary", "SLURMD_NODENAME=n2", "SLURM_JOB_ID=7").MasterAddress);

    [Fact]
    public void Tasks_on_one_node_meet_on_it_whatever_its_name() => Assert.Equal("127.0.0.1", Read(
        "SLURM_PROCID=1", "SLURM_STEP_NUM_TASKS=2", "SLURM_LOCALID=1", "SLURM_NODEID=0", "SLURM_STEP_TASKS_PER_NODE=2",
        "SLURM_STEP_NODELIST=unresolvable", "SLURM_JOB_ID=7").MasterAddress);

    [Theory]
    [InlineData("slurm-12.3", "SLURM_PROCID=0", "SLURM_STEP_NUM_TASKS=2", "SLURM_JOB_ID=12", "SLURM_STEP_ID=3")]
    [InlineData("my_run.1", "RANK=0", "WORLD_SIZE=2", "TORCHELASTIC_RUN_ID=my/run.1")]
    [InlineData("default", "RANK=0", "WORLD_SIZE=2", "TORCHELASTIC_RUN_ID=none")]
    [InlineData("4711", "OMPI_COMM_WORLD_RANK=0", "OMPI_COMM_WORLD_SIZE=2", "PMIX_NAMESPACE=4711")]
    [InlineData("mine", "OMPI_COMM_WORLD_RANK=0", "OMPI_COMM_WORLD_SIZE=2", "PMIX_NAMESPACE=4711", "SKEIN_JOB_ID=mine")]
    public void Each_launchers_own_name_for_the_job_is_taken_over(string id, params string[] environment) => Assert.Equal(id, Read(environment).JobId);

    [Theory]
    [InlineData("on", true)]
    [InlineData("off", false)]
    public void Encryption_is_read_into_the_options_and_the_secret(string setting, bool encrypts)
    {
        var options = Read($"SKEIN_ENCRYPTION={setting}", "SKEIN_JOB_SECRET=000102030405060708090a0b0c0d0e0f");
        Assert.Equal((encrypts, encrypts), (options.Encryption, options.Secret!.Encrypts));
    }

    [Fact]
    public void The_port_of_torchruns_own_store_is_left_to_it() =>
        Assert.Equal(29501, Read("RANK=0", "WORLD_SIZE=2", "MASTER_ADDR=h", "MASTER_PORT=29500", "TORCHELASTIC_USE_AGENT_STORE=True").MasterPort);

    [Theory]
    [InlineData(UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.OtherRead)]
    [InlineData(UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.GroupRead)]
    public void A_secret_file_that_others_can_read_is_refused(UnixFileMode mode)
    {
        if (OperatingSystem.IsWindows()) return;
        string path = Path.GetTempFileName();
        try
        {
            File.WriteAllText(path, JobSecret.Generate().ToHex());
            Assert.NotNull(Read($"SKEIN_JOB_SECRET_FILE={path}").Secret);
            File.SetUnixFileMode(path, mode);
            var error = Assert.Throws<RendezvousException>(() => Read($"SKEIN_JOB_SECRET_FILE={path}"));
            Assert.Equal($"SKEIN_JOB_SECRET_FILE names {path}, which other users can read or write: chmod 600 {path}", error.Message);
        }
        finally
        {
            File.Delete(path);
        }
    }

    [Theory]
    [InlineData("2(x3),1", 0, 2)]
    [InlineData("2(x3),1", 2, 2)]
    [InlineData("2(x3),1", 3, 1)]
    [InlineData("2(x3),1", 4, null)]
    [InlineData("4", 0, 4)]
    [InlineData("x", 0, null)]
    [InlineData(null, 0, null)]
    public void Tasks_on_a_node(string? list, int node, int? tasks) => Assert.Equal(tasks, Slurm.TasksOnNode(list, node));

    [Theory]
    [InlineData("RANK is set, but WORLD_SIZE is not", "RANK=1")]
    [InlineData("WORLD_SIZE is '4', but RANK is not set", "WORLD_SIZE=4")]
    [InlineData("RANK is 4, but WORLD_SIZE is 4: it must be from 0 to 3", "RANK=4", "WORLD_SIZE=4")]
    [InlineData("RANK is '-1'", "RANK=-1", "WORLD_SIZE=4")]
    [InlineData("WORLD_SIZE is '0'", "RANK=0", "WORLD_SIZE=0")]
    [InlineData("WORLD_SIZE is 'two'", "RANK=0", "WORLD_SIZE=two")]
    [InlineData("LOCAL_RANK is 2, but LOCAL_WORLD_SIZE is 2", "RANK=0", "WORLD_SIZE=2", "LOCAL_RANK=2", "LOCAL_WORLD_SIZE=2")]
    [InlineData("LOCAL_WORLD_SIZE is 3, more than WORLD_SIZE, which is 2", "RANK=0", "WORLD_SIZE=2", "LOCAL_WORLD_SIZE=3")]
    [InlineData("MASTER_PORT is '70000'", "RANK=0", "WORLD_SIZE=2", "MASTER_PORT=70000")]
    [InlineData("SKEIN_TIMEOUT_SECONDS is '0'", "SKEIN_TIMEOUT_SECONDS=0")]
    [InlineData("SKEIN_TIMEOUT_SECONDS is 'NaN'", "SKEIN_TIMEOUT_SECONDS=NaN")]
    [InlineData("unknown transport 'ib'; choose one of: auto, tcp, shm, mpi", "SKEIN_TRANSPORT=ib")]
    [InlineData("unknown algorithm 'star'", "SKEIN_ALGORITHM=star")]
    [InlineData("the job's secret is not hexadecimal", "SKEIN_JOB_SECRET=letmein")]
    [InlineData("the job's secret can be guessed", "SKEIN_JOB_SECRET=abababababababababababababababababab")]
    [InlineData("SKEIN_ENCRYPTION is 'yes': give on or off", "SKEIN_ENCRYPTION=yes")]
    [InlineData("SKEIN_JOB_SECRET_FILE names /nowhere/secret", "SKEIN_JOB_SECRET_FILE=/nowhere/secret")]
    public void A_wrong_variable_is_named_with_its_value(string message, params string[] environment)
    {
        var error = Assert.Throws<RendezvousException>(() => Read(environment));
        Assert.Contains(message, error.Message, StringComparison.Ordinal);
        Assert.DoesNotContain("letmein", error.Message, StringComparison.Ordinal);
    }

    private static ProcessGroupOptions Read(params string[] environment) => LauncherEnvironment.Read(Lookup(environment));

    private static bool HasRank(params string[] environment) => LauncherEnvironment.HasRank(Lookup(environment));

    private static (int, int, int, int) Place(ProcessGroupOptions options) =>
        (options.Rank, options.WorldSize, options.LocalRank, options.LocalWorldSize);

    private static Func<string, string?> Lookup(string[] environment)
    {
        var variables = environment.Select(line => line.Split('=', 2)).GroupBy(pair => pair[0]).ToDictionary(group => group.Key, group => group.Last()[1]);
        return name => variables.GetValueOrDefault(name);
    }
}
