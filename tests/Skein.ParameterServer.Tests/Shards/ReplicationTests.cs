using Skein.ParameterServer.Control;

namespace Skein.ParameterServer.Tests.Shards;

/// <summary>Backups that take over: nothing acknowledged is lost, and nothing is applied twice.</summary>
public sealed class ReplicationTests
{
    [Theory]
    [InlineData("bsp", "adam")]
    [InlineData("async", "momentum")]
    [InlineData("ssp:1", "adagrad")]
    public async Task A_lost_primary_is_replaced_and_the_parameters_are_those_of_an_undisturbed_run(string consistency, string optimizer)
    {
        float[] initial = Numbers.Random(3, 70_000);
        float[] undisturbed = await TrainAsync(lose: null);
        Assert.Equal(undisturbed, await TrainAsync(lose: 0));
        Assert.Equal(undisturbed, await TrainAsync(lose: 3)); // shard 1's backup: its primary goes on alone

        async Task<float[]> TrainAsync(int? lose)
        {
            await using ServerJob job = await ServerJob.StartAsync(
                new JobSettings { Servers = 2, Workers = 1, Consistency = consistency, Optimizer = ServerOptimizerOptions.Parse(optimizer) }, replicas: 2);
            JobWorker worker = await job.WorkerAsync(0, initial);
            worker.Pull(0);
            for (int clock = 0; clock < 12; clock++)
            {
                if (clock == 5 && lose is { } server) await job.Shards[server].DisposeAsync();
                worker.PushPull(clock, Numbers.Random(100 + clock, initial.Length), 0.01);
            }

            if (lose == 0) Assert.Equal(1, worker.Coordinator.View.Shards[0].Generation);
            return worker.Values;
        }
    }

    [Fact]
    public async Task A_backup_has_the_same_sums_of_several_workers()
    {
        float[] initial = Numbers.Random(3, 300_000);
        float[] undisturbed = await TrainAsync(lose: false);
        Assert.Equal(undisturbed, await TrainAsync(lose: true));

        async Task<float[]> TrainAsync(bool lose)
        {
            await using ServerJob job = await ServerJob.StartAsync(new JobSettings { Servers = 1, Workers = 3 }, replicas: 2);
            JobWorker[] workers = [.. await Task.WhenAll(Enumerable.Range(0, 3).Select(rank => job.WorkerAsync(rank, initial)))];
            for (int clock = 0; clock < 8; clock++)
            {
                // Half-way the primary has one of the three gradients of a step.
                if (clock == 4) workers[0].Push(clock, Gradient(clock, 0));
                if (clock == 4 && lose) await job.Shards[0].DisposeAsync();
                await Task.WhenAll(workers.Index().Select(worker => Task.Run(() =>
                    clock == 4 && worker.Index == 0 ? worker.Item.Pull(clock + 1) : worker.Item.PushPull(clock, Gradient(clock, worker.Index)))));
            }

            return workers[2].Values;
        }

        float[] Gradient(int clock, int rank) => Numbers.Random((clock * 3) + rank, initial.Length);
    }

    [Fact]
    public async Task A_worker_whose_initial_values_come_second_is_answered_though_the_backup_gets_nothing_new()
    {
        await using ServerJob job = await ServerJob.StartAsync(new JobSettings { Servers = 1, Workers = 2 }, replicas: 2);
        await using CoordinatorClient second = await CoordinatorClient.JoinAsync("127.0.0.1", job.Coordinator.Endpoint.Port, job.Secret, new WorkerRegistration(1), ServerJob.Limit);
        using var late = ParameterServerClient.Open(second, job.Secret, [new ParameterSpec("w", 1)], [], 1, ServerJob.Limit);
        JobWorker first = await job.WorkerAsync(0, [5f]);
        late.Initialize(first.ValueMemory);
        Assert.Equal(4, late.Pull(0, first.ValueMemory).BytesReceived);
        await second.LeaveAsync();
    }

    [Fact]
    public async Task Without_a_backup_a_lost_shard_ends_the_job_naming_it()
    {
        await using ServerJob job = await ServerJob.StartAsync(new JobSettings { Servers = 2, Workers = 1 });
        JobWorker worker = await job.WorkerAsync(0, new float[70_000]);
        await job.Shards[1].DisposeAsync();
        var error = Assert.Throws<ParameterServerException>(() =>
        {
            for (int clock = 0; clock < 1000; clock++) worker.PushPull(clock, new float[70_000]);
        });
        Assert.Contains("server shard 1 (", error.Message, StringComparison.Ordinal);
        Assert.Contains("it has no replica", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task The_same_chunk_of_data_counts_once_whoever_pushes_it()
    {
        await using ServerJob job = await ServerJob.StartAsync(new JobSettings { Servers = 2, Workers = 2, Consistency = "async", Elastic = true });
        JobWorker first = await job.WorkerAsync(0, new float[70_000]), second = await job.WorkerAsync(1, new float[70_000]);
        float[] ones = [.. Enumerable.Repeat(1f, 70_000)];
        first.Push(0, ones, work: (0, 7));
        second.Push(0, ones, work: (0, 7));
        second.Push(1, ones, work: (1, 7));
        second.Pull(2);
        Assert.Equal(-2, second.Values[0]);
        Assert.Equal(-2, second.Values[^1]);
    }

    [Fact]
    public async Task A_worker_that_joins_later_begins_at_the_slowest_ones_clock()
    {
        await using ServerJob job = await ServerJob.StartAsync(new JobSettings { Servers = 1, Workers = 1, Consistency = "ssp:1", Elastic = true });
        JobWorker first = await job.WorkerAsync(0, [0f]);
        for (int clock = 0; clock < 3; clock++) first.PushPull(clock, [1f]);
        JobWorker late = await job.WorkerAsync(WorkerRegistration.Extra, [9f]);
        Assert.Equal(3, late.Client.StartClock);
        late.Pull(3);
        Assert.Equal(-3, late.Values[0]);
    }

    [Fact]
    public async Task A_checkpoint_continues_the_run()
    {
        string directory = Directory.CreateTempSubdirectory("skein-").FullName;
        var settings = new JobSettings { Servers = 2, Workers = 1, Optimizer = ServerOptimizerOptions.Parse("adam"), CheckpointDirectory = directory, CheckpointEvery = 5 };
        var table = new TableSpec("rows", 100, 3, 0.1f, 5);
        float[] initial = Numbers.Random(3, 70_000);
        float[] whole = await TrainAsync(settings, 0, 10);
        await TrainAsync(settings, 0, 5);
        Assert.Equal(whole, await TrainAsync(settings with { Restore = true }, 5, 10));
        Directory.Delete(directory, recursive: true);

        Task<float[]> TrainAsync(JobSettings settings, int from, int to) => CheckpointedAsync(settings, initial, table, from, to);
    }

    [Fact]
    public async Task Shards_that_were_interrupted_between_each_others_checkpoints_begin_with_the_one_that_all_have()
    {
        string directory = Directory.CreateTempSubdirectory("skein-").FullName;
        var settings = new JobSettings { Servers = 2, Workers = 1, Optimizer = ServerOptimizerOptions.Parse("adam"), CheckpointDirectory = directory, CheckpointEvery = 5 };
        var table = new TableSpec("rows", 100, 3, 0.1f, 5);
        float[] initial = Numbers.Random(3, 70_000);
        float[] whole = await CheckpointedAsync(settings, initial, table, 0, 10);

        // As if the crash had come before shard 1 wrote its second one.
        File.Move(Path.Combine(directory, "shard-1.previous.ckpt"), Path.Combine(directory, "shard-1.ckpt"), overwrite: true);
        Assert.Equal(whole, await CheckpointedAsync(settings with { Restore = true }, initial, table, 5, 10));

        // Nothing in common: those of 10 and 5 updates, and one of 20.
        foreach (string file in new[] { "shard-0.ckpt", "shard-0.previous.ckpt" }) File.Copy(Path.Combine(directory, file), Path.Combine(directory, $"{file}.kept"));
        await CheckpointedAsync(settings with { Restore = true }, initial, table, 10, 20);
        foreach (string file in new[] { "shard-0.ckpt", "shard-0.previous.ckpt" }) File.Move(Path.Combine(directory, $"{file}.kept"), Path.Combine(directory, file), overwrite: true);
        File.Delete(Path.Combine(directory, "shard-1.previous.ckpt"));
        ParameterServerException error = await Assert.ThrowsAsync<ParameterServerException>(
            () => CheckpointedAsync(settings with { Restore = true }, initial, table, 20, 21));
        Assert.StartsWith("the checkpoints of the shards have no step in common: server shard 0 of 10 and 5, server shard 1 of 20 updates", error.Message, StringComparison.Ordinal);
        Directory.Delete(directory, recursive: true);
    }

    [Fact]
    public async Task A_flipped_bit_in_a_checkpoint_is_not_loaded()
    {
        string directory = Directory.CreateTempSubdirectory("skein-").FullName;
        var settings = new JobSettings { Servers = 1, Workers = 1, CheckpointDirectory = directory, CheckpointEvery = 5 };
        var table = new TableSpec("rows", 100, 3, 0.1f, 5);
        float[] initial = Numbers.Random(3, 1000);
        await CheckpointedAsync(settings, initial, table, 0, 5);
        string file = Path.Combine(directory, "shard-0.ckpt");
        byte[] bytes = File.ReadAllBytes(file);
        bytes[bytes.Length / 2] ^= 4;
        File.WriteAllBytes(file, bytes);
        ParameterServerException error = await Assert.ThrowsAsync<ParameterServerException>(
            () => CheckpointedAsync(settings with { Restore = true }, initial, table, 5, 6));
        Assert.Contains($"the checkpoint {file} is damaged: its contents are not what was written", error.Message, StringComparison.Ordinal);
        Directory.Delete(directory, recursive: true);
    }

    private static async Task<float[]> CheckpointedAsync(JobSettings settings, float[] initial, TableSpec table, int from, int to)
    {
        await using ServerJob job = await ServerJob.StartAsync(settings);
        JobWorker worker = await job.WorkerAsync(0, initial, table);
        for (int step = from; step < to; step++)
        {
            long[] ids = [step % 4, 50 + step];
            worker.Push(step - from, Numbers.Random(step, initial.Length), 0.01, null, new RowGradients(0, ids, Numbers.Random(step, 6)));
        }

        worker.Pull(-1);
        var rows = new float[300];
        worker.Client.PullRows(0, [.. Enumerable.Range(0, 100).Select(id => (long)id)], rows);
        return [.. worker.Values, .. rows];
    }
}
