using System.Net.Sockets;
using System.Text;
using Grpc.Core;
using Grpc.Net.Client;
using Skein.Collectives;
using Skein.Collectives.Rendezvous;
using Skein.ParameterServer.Control;
using Skein.ParameterServer.Shards;
using Skein.ParameterServer.Wire;

namespace Skein.ParameterServer.Tests.Shards;

public sealed class ShardFailureTests
{
    private static readonly float[] Initial = Numbers.Random(1, 70_000);

    [Fact]
    public async Task A_push_with_NaN_is_refused_whole_naming_the_worker()
    {
        await using ServerJob job = await ServerJob.StartAsync(new JobSettings { Servers = 1, Workers = 1, Consistency = "async" });
        JobWorker worker = await job.WorkerAsync(0, Initial);
        float[] gradient = Numbers.Random(2, Initial.Length);
        gradient[^1] = float.NaN;
        var error = Assert.Throws<ParameterServerException>(() => worker.Push(0, gradient));
        Assert.Contains("worker 0 pushed gradients with NaN", error.Message, StringComparison.Ordinal);
        using var raw = await RawWorker.ConnectAsync(job, worker, generation: 0);
        Assert.Equal(Initial, raw.Pull(Initial.Length));
        Assert.Equal(error.Message, await job.Coordinator.Finished.WaitAsync(ServerJob.Limit));
    }

    [Fact]
    public async Task All_workers_of_a_diverged_job_hear_of_the_first()
    {
        await using ServerJob job = await ServerJob.StartAsync(new JobSettings { Servers = 1, Workers = 2, Consistency = "async" });
        JobWorker[] workers = [await job.WorkerAsync(0, [1f, 2f]), await job.WorkerAsync(1, [1f, 2f])];
        var first = Assert.Throws<ParameterServerException>(() => workers[1].Push(0, [float.NaN, 1]));
        var second = Assert.Throws<ParameterServerException>(() => workers[0].Push(0, [1, float.PositiveInfinity]));
        Assert.StartsWith("worker 1 pushed gradients with NaN", first.Message, StringComparison.Ordinal);
        Assert.Equal(first.Message, second.Message);
    }

    [Fact]
    public async Task NaN_is_applied_where_that_is_allowed()
    {
        await using ServerJob job = await ServerJob.StartAsync(new JobSettings { Servers = 1, Workers = 1, Consistency = "async", AllowNonFinite = true });
        JobWorker worker = await job.WorkerAsync(0, [1f, 2f]);
        worker.PushPull(0, [float.NaN, 1]);
        Assert.Equal([float.NaN, 1f], worker.Values);
    }

    [Fact]
    public async Task Another_model_is_refused_naming_the_parameter()
    {
        await using ServerJob job = await ServerJob.StartAsync(new JobSettings { Servers = 1, Workers = 2 });
        await job.WorkerAsync(0, new float[10]);
        var error = await Assert.ThrowsAsync<ParameterServerException>(() => job.WorkerAsync(1, new float[12]));
        Assert.Contains("worker 1 has another model than the job: parameter 'w' has 12 elements from 0 on there, and 10 here", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task An_old_generation_is_refused_naming_both()
    {
        await using ServerJob job = await ServerJob.StartAsync(new JobSettings { Servers = 1, Workers = 1, Consistency = "async" });
        JobWorker worker = await job.WorkerAsync(0, [1f]);
        using var raw = await RawWorker.ConnectAsync(job, worker, generation: -1);
        Assert.Contains("server shard 0 is of generation 0, but was asked as one of generation -1", raw.Refusal(), StringComparison.Ordinal);
    }

    [Fact]
    public async Task Without_the_secret_a_client_gets_nothing_and_the_job_goes_on()
    {
        await using ServerJob job = await ServerJob.StartAsync(new JobSettings { Servers = 1, Workers = 1, Consistency = "async" });
        JobWorker worker = await job.WorkerAsync(0, [1f]);
        ServerView server = worker.Coordinator.View.Shards[0].Primary;
        await Assert.ThrowsAsync<JobAuthenticationException>(() => AuthenticatedConnection.ConnectAsync(
            server.Host, server.DataPort, JobSecret.Generate(), ConnectionPurpose.Data, new PeerHello(0, 0, worker.Coordinator.Token).ToBytes(), TimeSpan.FromSeconds(5)));
        await Assert.ThrowsAsync<JobAuthenticationException>(() => CoordinatorClient.JoinAsync(
            "127.0.0.1", job.Coordinator.Endpoint.Port, JobSecret.Generate(), new WorkerRegistration(0), TimeSpan.FromSeconds(5)));
        worker.PushPull(0, [1f]);
        Assert.Equal(0, worker.Values[0]);
    }

    [Fact]
    public async Task More_servers_than_parameters_are_refused()
    {
        await using ServerJob job = await ServerJob.StartAsync(new JobSettings { Servers = 2, Workers = 1 });
        var error = await Assert.ThrowsAsync<ArgumentException>(() => job.WorkerAsync(0, [1f]));
        Assert.Contains("2 servers are more than the 1 parameters need", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_wrong_length_or_an_unknown_kind_from_a_member_is_refused_without_harm()
    {
        await using ServerJob job = await ServerJob.StartAsync(new JobSettings { Servers = 1, Workers = 1, Consistency = "async" });
        JobWorker worker = await job.WorkerAsync(0, Initial, new TableSpec("t", 10, 2, 0, 0));
        foreach ((MessageHeader header, byte[] payload, string reason) in new[]
        {
            (new MessageHeader { Kind = MessageKind.Push, PayloadBytes = 4 }, [], "sent a Push with 4 bytes of payload where 280000 bytes of values should come"),
            (new MessageHeader { Kind = MessageKind.Push, PayloadBytes = long.MaxValue, Tables = 1 }, new byte[Initial.Length * 4].Concat(BitConverter.GetBytes(0)).Concat(BitConverter.GetBytes(int.MaxValue)).ToArray(), "up to 4194304 rows, not 2147483647"),
            (new MessageHeader { Kind = MessageKind.Push, PayloadBytes = (Initial.Length * 4) + 8 + 8 + 8, Tables = 1 }, new byte[Initial.Length * 4].Concat(BitConverter.GetBytes(0)).Concat(BitConverter.GetBytes(1)).Concat(BitConverter.GetBytes(10L)).ToArray(), "table 't' has rows 0 to 9, but worker 0 pushed row 10"),
            (new MessageHeader { Kind = MessageKind.Open, PayloadBytes = long.MaxValue }, [], "bytes of layout should come"),
            (new MessageHeader { Kind = (MessageKind)200 }, [], "a message of unknown kind 200 came"),
        })
        {
            using var raw = await RawWorker.ConnectAsync(job, worker, generation: 0);
            raw.Send(header, payload);
            Assert.Contains(reason, raw.Refusal(), StringComparison.Ordinal);
        }

        worker.PushPull(0, new float[Initial.Length]);
        Assert.Equal(Initial, worker.Values);
    }

    [Theory]
    [InlineData("""{"Slices":[],"Tables":[{"Name":"t","Rows":0,"Dimension":2,"InitialDeviation":0,"Seed":0}]}""", "a layout that no model has: table 't' must have at least 1 row")]
    [InlineData("""{"Slices":[null],"Tables":[]}""", "a layout without slices or tables, or with one that has no name or a negative length")]
    [InlineData("""{"Slices":[],"Tables":[null]}""", "a layout without slices or tables, or with one that has no name or a negative length")]
    [InlineData("""{"Tables":[]}""", "a layout without slices or tables, or with one that has no name or a negative length")]
    [InlineData("""{"Slices":[{"Parameter":"w","Start":0,"Length":"many","Server":0}],"Tables":[]}""", "a layout that is not JSON")]
    [InlineData("null", "a layout without slices or tables, or with one that has no name or a negative length")]
    public async Task A_layout_that_is_none_is_refused_without_harm(string layout, string reason)
    {
        await using ServerJob job = await ServerJob.StartAsync(new JobSettings { Servers = 1, Workers = 1, Consistency = "async" });
        JobWorker worker = await job.WorkerAsync(0, Initial);
        using (var raw = await RawWorker.ConnectAsync(job, worker, generation: 0))
        {
            byte[] bytes = Encoding.UTF8.GetBytes(layout);
            raw.Send(new MessageHeader { Kind = MessageKind.Open, PayloadBytes = bytes.Length }, bytes);
            Assert.StartsWith(reason, raw.Refusal(), StringComparison.Ordinal);
        }

        worker.PushPull(0, new float[Initial.Length]);
        Assert.Equal(Initial, worker.Values);
    }

    [Fact]
    public async Task A_member_cannot_act_for_a_worker_that_it_is_not()
    {
        await using ServerJob job = await ServerJob.StartAsync(new JobSettings { Servers = 1, Workers = 2, Consistency = "async" });
        JobWorker worker = await job.WorkerAsync(0, Initial), other = await job.WorkerAsync(1, Initial);
        using (var raw = await RawWorker.ConnectAsync(job, worker, generation: 0, other.Coordinator.Token))
        {
            Assert.Equal("a message in the name of worker 0 did not come from it", raw.Refusal());
        }

        using GrpcChannel channel = ControlChannel.Open("127.0.0.1", job.Coordinator.Endpoint.Port, job.Secret, ServerJob.Limit);
        var calls = new Skein.ParameterServer.Control.Protocol.Coordination.CoordinationClient(channel);
        RpcException refusal = await Assert.ThrowsAsync<RpcException>(async () => await calls.SumAsync(
            new Skein.ParameterServer.Control.Protocol.SumRequest { Name = "loss", Worker = 0, Values = { 1 } }));
        Assert.Equal("a call in the name of worker 0 did not come from it", refusal.Status.Detail);
        worker.PushPull(0, new float[Initial.Length]);
        Assert.Equal(Initial, worker.Values);
    }

    [Fact]
    public async Task Rows_that_would_not_fit_are_refused_before_they_are_asked_for()
    {
        await using ServerJob job = await ServerJob.StartAsync(new JobSettings { Servers = 1, Workers = 1, Consistency = "async" });
        JobWorker worker = await job.WorkerAsync(0, Initial, new TableSpec("t", 10, 65536, 0, 0));
        using (var raw = await RawWorker.ConnectAsync(job, worker, generation: 0))
        {
            raw.Send(new MessageHeader { Kind = MessageKind.PullRows, PayloadBytes = (1 << 22) * sizeof(long) }, []);
            Assert.Contains("where ids of at most 536870912 values should come", raw.Refusal(), StringComparison.Ordinal);
        }

        worker.PushPull(0, new float[Initial.Length]);
        Assert.Equal(Initial, worker.Values);
    }

    [Fact]
    public async Task A_worker_that_dies_within_a_push_leaves_no_trace()
    {
        await using ServerJob job = await ServerJob.StartAsync(new JobSettings { Servers = 1, Workers = 1, Consistency = "async" });
        JobWorker worker = await job.WorkerAsync(0, Initial);
        using (var raw = await RawWorker.ConnectAsync(job, worker, generation: 0))
        {
            raw.Send(new MessageHeader { Kind = MessageKind.Push, PayloadBytes = Initial.Length * 4, LearningRate = 1 }, new byte[Initial.Length * 2]);
        }

        worker.PushPull(0, new float[Initial.Length]);
        Assert.Equal(Initial, worker.Values);
        Assert.Equal(1, Assert.Single(await job.StatisticsAsync()).Updates);
    }

    [Fact]
    public async Task Waiting_for_a_worker_that_does_not_come_ends_naming_it()
    {
        await using ServerJob job = await ServerJob.StartAsync(new JobSettings { Servers = 1, Workers = 2, TimeoutSeconds = 1 });
        JobWorker worker = await job.WorkerAsync(0, [1f]);
        await job.WorkerAsync(1, [1f]);
        var error = Assert.Throws<ParameterServerException>(() => worker.PushPull(0, [1f]));
        Assert.Contains("worker 0 waited 1 s at clock 1 in server shard 0 for worker 0, which is at clock 0, worker 1, which is at clock 0 (bsp)", error.Message, StringComparison.Ordinal);
    }

    /// <summary>Speaks the wire protocol by hand.</summary>
    private sealed class RawWorker(DataConnection stream) : IDisposable
    {
        public static async Task<RawWorker> ConnectAsync(ServerJob job, JobWorker like, long generation, Guid? token = null)
        {
            ServerView server = like.Coordinator.View.Shards[0].Primary;
            Socket socket = await AuthenticatedConnection.ConnectAsync(
                server.Host, server.DataPort, job.Secret, ConnectionPurpose.Data, new PeerHello(0, generation, token ?? like.Coordinator.Token).ToBytes(), ServerJob.Limit);
            var raw = new RawWorker(new DataConnection(socket));
            byte[] layout = new ShardLayout(like.Client.Placement.On(0), like.Client.Tables).ToBytes();
            raw.Send(new MessageHeader { Kind = MessageKind.Open, PayloadBytes = layout.Length }, layout);
            if (generation >= 0 && token is null) Assert.Equal(MessageKind.Opened, stream(raw).ReadHeader().Kind);
            return raw;

            static DataConnection stream(RawWorker raw) => raw.Stream;
        }

        private DataConnection Stream => stream;

        public void Send(in MessageHeader header, byte[] payload)
        {
            stream.Write(header);
            stream.Write(payload);
            stream.Flush();
        }

        public string Refusal()
        {
            MessageHeader header = stream.ReadHeader();
            Assert.Contains(header.Kind, new[] { MessageKind.Refused, MessageKind.Superseded });
            var text = new byte[header.PayloadBytes];
            stream.Read(text);
            return Encoding.UTF8.GetString(text);
        }

        public float[] Pull(int length)
        {
            Send(new MessageHeader { Kind = MessageKind.Pull, Clock = -1, Version = -1 }, []);
            MessageHeader header = stream.ReadHeader();
            Assert.Equal(length * sizeof(float), header.PayloadBytes);
            var values = new float[length];
            stream.Read(System.Runtime.InteropServices.MemoryMarshal.AsBytes(values.AsSpan()));
            return values;
        }

        public void Dispose() => stream.Dispose();
    }
}
