using System.Net;
using System.Net.Sockets;
using Grpc.Health.V1;
using Grpc.Net.Client;
using Grpc.Reflection.V1Alpha;
using Skein.Collectives;
using Skein.Collectives.Rendezvous;
using Skein.Hosting.ParameterServers;
using Skein.ParameterServer.Control;

namespace Skein.ParameterServer.Tests.Control;

public class ControlHostTests
{
    private const int ChallengeLength = 36;

    [Fact]
    public async Task Health_is_serving_and_reflection_lists_the_services()
    {
        await using Members job = await Members.StartAsync(options => options);
        using GrpcChannel channel = ControlChannel.Open("127.0.0.1", job.Coordinator.Endpoint.Port, job.Secret, Members.Limit);

        HealthCheckResponse health = await new Health.HealthClient(channel).CheckAsync(new HealthCheckRequest(), deadline: Deadline);
        Assert.Equal(HealthCheckResponse.Types.ServingStatus.Serving, health.Status);

        using var reflection = new ServerReflection.ServerReflectionClient(channel).ServerReflectionInfo(deadline: Deadline);
        await reflection.RequestStream.WriteAsync(new ServerReflectionRequest { ListServices = "" });
        Assert.True(await reflection.ResponseStream.MoveNext(CancellationToken.None));
        string[] services = [.. reflection.ResponseStream.Current.ListServicesResponse.Service.Select(service => service.Name)];
        Assert.Contains("skein.parameterserver.v1.Coordination", services);
        Assert.Contains("grpc.health.v1.Health", services);
    }

    [Fact]
    public async Task Who_does_not_know_the_secret_is_refused()
    {
        await using Members job = await Members.StartAsync(options => options);
        JobAuthenticationException refusal = await Assert.ThrowsAsync<JobAuthenticationException>(() => CoordinatorClient.JoinAsync(
            "127.0.0.1", job.Coordinator.Endpoint.Port, JobSecret.Generate(), new WorkerRegistration(0), Members.Limit));
        Assert.Contains("the secret differs", refusal.Message);
        Assert.Equal(0, (await job.WorkerAsync(0)).Id);
    }

    [Fact]
    public async Task Plain_http_gets_a_challenge_and_not_a_byte_of_http()
    {
        await using Members job = await Members.StartAsync(options => options);
        using var socket = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        await socket.ConnectAsync(job.Coordinator.Endpoint);
        byte[] preface = [.. "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"u8, .. new byte[200]];
        await socket.SendAsync(preface);

        using var limit = new CancellationTokenSource(Members.Limit);
        var answer = new List<byte>();
        var buffer = new byte[1024];
        try
        {
            while (await socket.ReceiveAsync(buffer, limit.Token) is > 0 and var count) answer.AddRange(buffer[..count]);
        }
        catch (SocketException)
        {
            // Reset instead of closed: the listener had not read all of it.
        }

        Assert.True(answer.Count <= ChallengeLength);
    }

    [Fact]
    public async Task A_coordinator_that_does_not_exist_is_named_after_the_timeout()
    {
        RendezvousException error = await Assert.ThrowsAsync<RendezvousException>(() => CoordinatorClient.JoinAsync(
            "127.0.0.1", Relay.UnusedPort(), JobSecret.Generate(), new WorkerRegistration(0), TimeSpan.FromMilliseconds(300)));
        Assert.Contains("could not reach 127.0.0.1:", error.Message);
    }

    [Fact]
    public async Task A_shard_tells_its_statistics_and_saves_checkpoints()
    {
        var secret = JobSecret.Generate();
        var statistics = new ShardStatistics
        {
            Shard = 1,
            Generation = 2,
            Updates = 3,
            Pushes = 4,
            Pulls = 5,
            BytesReceived = 6,
            BytesSent = 7,
            RejectedPushes = 8,
            StoredRows = 9,
            ClockStaleness = [10, 11],
            UpdateStaleness = [12, 13, 14],
        };
        int saved = 0;
        await using ControlHost host = await ControlHost.StartAsync(new IPEndPoint(IPAddress.Loopback, 0), secret, new ShardControl(
            () => statistics, _ => saved++ == 0 ? Task.FromResult("/run/shard1") : throw new IOException("no space left")).Service);
        using var client = new ShardControlClient("127.0.0.1", host.Endpoint.Port, secret, Members.Limit);

        ShardStatistics told = await client.GetStatisticsAsync();
        Assert.Equal(statistics.ClockStaleness, told.ClockStaleness);
        Assert.Equal(statistics.UpdateStaleness, told.UpdateStaleness);
        Assert.Equal(statistics, told with { ClockStaleness = statistics.ClockStaleness, UpdateStaleness = statistics.UpdateStaleness });
        Assert.Equal("/run/shard1", await client.SaveCheckpointAsync());
        ParameterServerException failure = await Assert.ThrowsAsync<ParameterServerException>(() => client.SaveCheckpointAsync());
        Assert.Equal("the checkpoint could not be saved: no space left", failure.Message);
    }

    [Fact]
    public async Task A_server_that_does_not_answer_is_named_after_the_timeout()
    {
        var secret = JobSecret.Generate();
        await using ControlHost host = await ControlHost.StartAsync(new IPEndPoint(IPAddress.Loopback, 0), secret, new ShardControl(
            () => new ShardStatistics(),
            async cancellation =>
            {
                await Task.Delay(Timeout.Infinite, cancellation);
                return "";
            }).Service);
        using var client = new ShardControlClient("127.0.0.1", host.Endpoint.Port, secret, TimeSpan.FromSeconds(1));
        ParameterServerException error = await Assert.ThrowsAsync<ParameterServerException>(() => client.SaveCheckpointAsync());
        Assert.Equal($"waited 1 s for the server at {host.Endpoint} to save a checkpoint", error.Message);
    }

    private static DateTime Deadline => DateTime.UtcNow + Members.Limit;
}
