using System.Diagnostics;
using System.Net;
using System.Net.Sockets;
using Skein.Collectives.Rendezvous;

namespace Skein.Collectives.Tests.Rendezvous;

/// <summary>Tests that measure the memory of the whole process: nothing else runs beside them.</summary>
[CollectionDefinition(nameof(MeasuresTheProcess), DisableParallelization = true)]
public sealed class MeasuresTheProcess;

/// <summary>Attacks on a listener and on a connecting client, by somebody without the secret or with a broken program.</summary>
[Collection(nameof(MeasuresTheProcess))]
public sealed class HandshakeTests : IAsyncLifetime
{
    private const byte Purpose = 42;
    private const int ChallengeLength = 36;
    private const int ProofLength = 103;
    private const int AnswerLength = 33;
    private const byte Accepted = 1, Refused = 2;

    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(20);
    private readonly JobSecret secret = JobSecret.Generate();
    private readonly RecordingLogger log = new();
    private AuthenticatedListener listener = null!;
    private int handled;

    public ValueTask InitializeAsync()
    {
        listener = Listen(TimeSpan.FromSeconds(10));
        return ValueTask.CompletedTask;
    }

    public ValueTask DisposeAsync() => listener.DisposeAsync();

    [Fact]
    public async Task A_member_gets_through_with_its_hello_and_both_ends_have_no_delay()
    {
        var hello = new byte[1024];
        new Random(1).NextBytes(hello);
        var arrived = new TaskCompletionSource<(Socket, byte[])>();
        listener.Register(7, (socket, its) =>
        {
            arrived.SetResult((socket, its.ToArray()));
            return Task.CompletedTask;
        });
        using Socket client = await AuthenticatedConnection.ConnectAsync("127.0.0.1", listener.Endpoint.Port, secret, 7, hello, Patience);
        (Socket server, byte[] received) = await arrived.Task.WaitAsync(Patience);
        using (server)
        {
            Assert.Equal(hello, received);
            Assert.True(client.NoDelay && server.NoDelay);
            await server.SendAsync("after"u8.ToArray());
            Assert.Equal("after"u8.ToArray(), await Sockets.ReadAsync(client, 5));
        }
    }

    [Fact]
    public async Task A_wrong_secret_is_refused_clearly_on_both_sides_and_never_shown()
    {
        var wrong = JobSecret.Generate();
        for (int i = 0; i < 3; i++)
        {
            var error = await Assert.ThrowsAsync<JobAuthenticationException>(
                () => AuthenticatedConnection.ConnectAsync("127.0.0.1", listener.Endpoint.Port, wrong, Purpose, default, Patience));
            Assert.Contains($"127.0.0.1:{listener.Endpoint.Port}", error.Message);
            Assert.Contains("refused: the secret differs; set the same SKEIN_JOB_SECRET", error.Message);
        }

        string warning = Assert.Single(await log.WarningsAsync(1));
        Assert.Contains("127.0.0.1", warning);
        Assert.Contains("secret differs", warning);
        Assert.DoesNotContain(secret.ToHex(), warning);
        Assert.DoesNotContain(wrong.ToHex(), warning);
        Assert.Equal(0, handled);
    }

    [Fact]
    public async Task A_listener_without_the_secret_is_refused_by_the_client()
    {
        // It cannot compute a MAC; the best it has is to send the client's own back (reflection) or none.
        foreach (bool reflect in new[] { true, false })
        {
            using Impostor impostor = Impostor.Start(async socket =>
            {
                await socket.SendAsync(Handshake.NewChallenge());
                byte[] proof = await Sockets.ReadAsync(socket, ProofLength);
                await socket.SendAsync((byte[])[Accepted, .. reflect ? proof[^32..] : new byte[32]]);
                await Sockets.IsClosedByPeerAsync(socket);
            });
            var error = await Assert.ThrowsAsync<JobAuthenticationException>(
                () => AuthenticatedConnection.ConnectAsync("127.0.0.1", impostor.Port, secret, Purpose, new byte[9], Patience));
            Assert.Contains("does not know the job's secret", error.Message);
        }
    }

    [Fact]
    public async Task A_challenge_sent_back_as_the_clients_nonce_proves_nothing()
    {
        using Socket stranger = await Sockets.ConnectAsync(listener.Endpoint);
        byte[] challenge = await Sockets.ReadAsync(stranger, ChallengeLength);
        var proof = new byte[ProofLength];
        challenge.CopyTo(proof, 0);
        proof[ChallengeLength] = Purpose;
        await AssertRefusedAsync(stranger, proof);
    }

    [Fact]
    public async Task A_challenge_passed_on_to_a_member_that_listens_gets_no_proof_that_can_be_used()
    {
        // The stranger lets a second listener of the job answer its own challenge: that one proves nothing to strangers.
        await using AuthenticatedListener second = Listen(TimeSpan.FromSeconds(10));
        using Socket toFirst = await Sockets.ConnectAsync(listener.Endpoint);
        using Socket toSecond = await Sockets.ConnectAsync(second.Endpoint);
        byte[] challenge = await Sockets.ReadAsync(toFirst, ChallengeLength);
        await Sockets.ReadAsync(toSecond, ChallengeLength);
        var proof = new byte[ProofLength];
        challenge.CopyTo(proof, 0);
        await toSecond.SendAsync(proof);
        byte[] answer = await Sockets.ReadAsync(toSecond, AnswerLength);
        Assert.Equal(new byte[32], answer[1..]);
        answer[1..].CopyTo(proof, ProofLength - 32);
        await AssertRefusedAsync(toFirst, proof);
    }

    [Fact]
    public async Task A_recorded_proof_does_not_work_on_another_connection()
    {
        using Socket first = await Sockets.ConnectAsync(listener.Endpoint);
        byte[] challenge = await Sockets.ReadAsync(first, ChallengeLength);
        byte[] proof = Handshake.NewProof(secret, challenge, Purpose, default);
        await first.SendAsync(proof);
        Assert.Equal(Accepted, (await Sockets.ReadAsync(first, AnswerLength))[0]);

        using Socket second = await Sockets.ConnectAsync(listener.Endpoint);
        await Sockets.ReadAsync(second, ChallengeLength);
        await AssertRefusedAsync(second, proof);
    }

    [Fact]
    public async Task Every_byte_of_the_proof_is_authenticated()
    {
        // All but the magic, whose change is dropped without an answer.
        for (int position = 4; position < ProofLength; position++)
        {
            using Socket stranger = await Sockets.ConnectAsync(listener.Endpoint);
            byte[] proof = Handshake.NewProof(secret, await Sockets.ReadAsync(stranger, ChallengeLength), Purpose, new byte[5]);
            proof[position] ^= 1;
            await AssertRefusedAsync(stranger, proof);
        }

        Assert.Equal(0, handled);
    }

    [Fact]
    public async Task A_hello_other_than_the_signed_one_is_dropped()
    {
        using Socket stranger = await Sockets.ConnectAsync(listener.Endpoint);
        byte[] challenge = await Sockets.ReadAsync(stranger, ChallengeLength);
        await stranger.SendAsync(Handshake.NewProof(secret, challenge, Purpose, "rank 1"u8));
        Assert.Equal(Accepted, (await Sockets.ReadAsync(stranger, AnswerLength))[0]);
        await stranger.SendAsync("rank 2"u8.ToArray());
        Assert.True(await Sockets.IsClosedByPeerAsync(stranger));
        Assert.Contains("not the one it signed", Assert.Single(await log.WarningsAsync(1)));
        Assert.Equal(0, handled);
    }

    [Fact]
    public async Task A_hello_over_the_limit_is_dropped_even_when_signed()
    {
        using Socket member = await Sockets.ConnectAsync(listener.Endpoint);
        byte[] challenge = await Sockets.ReadAsync(member, ChallengeLength);
        await member.SendAsync(Handshake.NewProof(secret, challenge, Purpose, new byte[1025]));
        Assert.True(await Sockets.IsClosedByPeerAsync(member));
        Assert.Contains("1025 bytes", Assert.Single(await log.WarningsAsync(1)));
        await Assert.ThrowsAnyAsync<ArgumentException>(
            () => AuthenticatedConnection.ConnectAsync("127.0.0.1", listener.Endpoint.Port, secret, Purpose, new byte[1025], Patience));
    }

    [Fact]
    public async Task Silent_clients_are_dropped_in_time_and_hold_nobody_up()
    {
        await using AuthenticatedListener impatient = Listen(TimeSpan.FromMilliseconds(500));
        var silent = new List<Socket>();
        for (int i = 0; i < 50; i++) silent.Add(await Sockets.ConnectAsync(impatient.Endpoint));
        long start = Stopwatch.GetTimestamp();
        (await ConnectAsync(impatient)).Dispose();
        foreach (Socket socket in silent)
        {
            Assert.True(await Sockets.IsClosedByPeerAsync(socket));
            socket.Dispose();
        }

        Assert.InRange(Stopwatch.GetElapsedTime(start), TimeSpan.FromMilliseconds(100), TimeSpan.FromSeconds(10));
    }

    [Fact]
    public async Task Of_too_many_silent_clients_the_oldest_is_dropped_and_members_get_through()
    {
        await using AuthenticatedListener patient = Listen(TimeSpan.FromHours(1));
        var silent = new List<Socket>();
        for (int i = 0; i < AuthenticatedListener.MaximumUnauthenticated + 20; i++)
        {
            silent.Add(await Sockets.ConnectAsync(patient.Endpoint));
            await Sockets.ReadAsync(silent[i], ChallengeLength); // Admitted: the order of admission is that of the list.
        }

        for (int i = 0; i < 20; i++) Assert.True(await Sockets.IsClosedByPeerAsync(silent[i]));
        (await ConnectAsync(patient)).Dispose();
        Assert.True(await Sockets.IsClosedByPeerAsync(silent[20]));

        // The newest is still there, and is served if it proves itself now.
        Assert.Equal(0, silent[^1].Available);
        Assert.False(silent[^1].Poll(0, SelectMode.SelectRead));
        silent.ForEach(socket => socket.Dispose());
    }

    [Fact]
    public async Task A_gigabyte_of_noise_is_cut_off_at_once_and_costs_no_memory()
    {
        const long Gigabyte = 1 << 30;
        var noise = new byte[1 << 16];
        new Random(3).NextBytes(noise);
        (await ConnectAsync(listener)).Dispose();
        long allocated = GC.GetTotalAllocatedBytes(precise: true);
        long resident = ResidentBytes();
        for (int client = 0; client < 20; client++)
        {
            using Socket stranger = await Sockets.ConnectAsync(listener.Endpoint);
            long sent = 0;
            try
            {
                while (sent < Gigabyte) sent += await stranger.SendAsync(noise);
            }
            catch (SocketException)
            {
                // Cut off. What was sent is what fits into the buffers of the two sockets.
            }

            Assert.InRange(sent, 0, 64 << 20);
            using Socket member = await ConnectAsync(listener);
        }

        Assert.InRange(GC.GetTotalAllocatedBytes(precise: true) - allocated, 0, 5_000_000);
        Assert.InRange(ResidentBytes() - resident, long.MinValue, 50_000_000);
        Assert.Contains("does not speak Skein's handshake", Assert.Single(await log.WarningsAsync(1)));
    }

    [Fact]
    public async Task A_listener_that_sends_noise_is_named_as_another_program()
    {
        using Impostor impostor = Impostor.Start(async socket =>
        {
            await socket.SendAsync(System.Text.Encoding.ASCII.GetBytes("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"));
            await Sockets.IsClosedByPeerAsync(socket);
        });
        var error = await Assert.ThrowsAsync<RendezvousException>(
            () => AuthenticatedConnection.ConnectAsync("127.0.0.1", impostor.Port, secret, Purpose, default, Patience));
        Assert.Contains($"another program listens at 127.0.0.1:{impostor.Port}", error.Message);
    }

    [Fact]
    public async Task A_silent_listener_is_given_up_after_the_timeout()
    {
        using Impostor impostor = Impostor.Start(Sockets.IsClosedByPeerAsync);
        var error = await Assert.ThrowsAsync<RendezvousException>(
            () => AuthenticatedConnection.ConnectAsync("127.0.0.1", impostor.Port, secret, Purpose, default, TimeSpan.FromMilliseconds(300)));
        Assert.Contains("did not finish the handshake", error.Message);
    }

    [Fact]
    public async Task A_purpose_that_is_never_served_is_given_up_after_the_timeout()
    {
        var error = await Assert.ThrowsAsync<RendezvousException>(() => AuthenticatedConnection.ConnectAsync(
            "127.0.0.1", listener.Endpoint.Port, secret, 99, default, TimeSpan.FromMilliseconds(300)));
        Assert.Contains("purpose 99", error.Message);
    }

    [Fact]
    public async Task Connecting_can_be_cancelled()
    {
        using var cancel = new CancellationTokenSource();
        Task<Socket> connecting = AuthenticatedConnection.ConnectAsync(
            "127.0.0.1", listener.Endpoint.Port, secret, 99, default, TimeSpan.FromHours(1), cancel.Token);
        await cancel.CancelAsync();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => connecting.WaitAsync(Patience));
    }

    private AuthenticatedListener Listen(TimeSpan handshakeTimeout)
    {
        var started = AuthenticatedListener.Start(new IPEndPoint(IPAddress.Loopback, 0), secret, log, handshakeTimeout);
        started.Register(Purpose, (socket, _) =>
        {
            Interlocked.Increment(ref handled);
            socket.Dispose();
            return Task.CompletedTask;
        });
        return started;
    }

    private Task<Socket> ConnectAsync(AuthenticatedListener to) =>
        AuthenticatedConnection.ConnectAsync("127.0.0.1", to.Endpoint.Port, secret, Purpose, default, Patience);

    private static async Task AssertRefusedAsync(Socket stranger, byte[] proof)
    {
        await stranger.SendAsync(proof);
        byte[] answer = await Sockets.ReadAsync(stranger, AnswerLength);
        Assert.Equal((byte[])[Refused, .. new byte[32]], answer);
        Assert.True(await Sockets.IsClosedByPeerAsync(stranger));
    }

    private static long ResidentBytes()
    {
        using var self = Process.GetCurrentProcess();
        return self.WorkingSet64;
    }
}
