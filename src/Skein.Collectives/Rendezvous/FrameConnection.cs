using System.Buffers.Binary;
using System.Net.Sockets;
using System.Threading.Channels;

namespace Skein.Collectives.Rendezvous;

/// <summary>
/// Length-prefixed frames on an authenticated socket. Sending is ordered and never blocks; one caller at a time receives.
/// </summary>
internal sealed class FrameConnection : IAsyncDisposable
{
    private static readonly TimeSpan FlushLimit = TimeSpan.FromSeconds(1);

    private readonly Socket socket;
    private readonly NetworkStream stream;
    private readonly int maximumLength;
    private readonly byte[] prefix = new byte[FrameWriter.PrefixLength];
    private readonly Channel<(byte[] Frame, TaskCompletionSource Written)> outgoing =
        Channel.CreateUnbounded<(byte[], TaskCompletionSource)>(new UnboundedChannelOptions { SingleReader = true });
    private readonly Task writing;

    /// <param name="socket">Owned from now on.</param>
    /// <param name="maximumLength">The longest frame accepted from the other side, in bytes.</param>
    public FrameConnection(Socket socket, int maximumLength)
    {
        this.socket = socket;
        this.maximumLength = maximumLength;
        stream = new NetworkStream(socket, ownsSocket: true);
        writing = Task.Run(WriteAsync);
    }

    /// <summary>Queues a frame made by <see cref="FrameWriter"/>; the task ends when the system took it, and may be ignored.</summary>
    public Task SendAsync(byte[] frame)
    {
        var written = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        if (!outgoing.Writer.TryWrite((frame, written))) Fail(written, new IOException("the connection is closed"));
        return written.Task;
    }

    /// <summary>The next frame's content; null when the connection has ended, in whatever way.</summary>
    /// <exception cref="InvalidDataException">The frame is longer than allowed.</exception>
    public async Task<byte[]?> ReceiveAsync(CancellationToken cancellationToken = default)
    {
        try
        {
            await stream.ReadExactlyAsync(prefix, cancellationToken).ConfigureAwait(false);
            uint length = BinaryPrimitives.ReadUInt32LittleEndian(prefix);
            if (length > maximumLength)
            {
                throw new InvalidDataException($"a frame of {length} bytes was announced; at most {maximumLength} are allowed");
            }

            var content = new byte[length];
            await stream.ReadExactlyAsync(content, cancellationToken).ConfigureAwait(false);
            return content;
        }
        catch (Exception error) when (error is IOException or ObjectDisposedException)
        {
            return null;
        }
    }

    /// <summary>Sends what is queued, for at most a second, and closes.</summary>
    public async ValueTask DisposeAsync()
    {
        outgoing.Writer.TryComplete();
        await Task.WhenAny(writing, Task.Delay(FlushLimit)).ConfigureAwait(false);
        try
        {
            socket.Shutdown(SocketShutdown.Send);
        }
        catch (Exception error) when (error is SocketException or ObjectDisposedException)
        {
            // The other side closed first.
        }

        await stream.DisposeAsync().ConfigureAwait(false);
    }

    private async Task WriteAsync()
    {
        Exception? broken = null;
        await foreach ((byte[] frame, TaskCompletionSource written) in outgoing.Reader.ReadAllAsync().ConfigureAwait(false))
        {
            try
            {
                if (broken is null) await stream.WriteAsync(frame).ConfigureAwait(false);
            }
            catch (Exception error) when (error is IOException or ObjectDisposedException)
            {
                broken = error;
            }

            if (broken is null) written.SetResult();
            else Fail(written, broken);
        }
    }

    private static void Fail(TaskCompletionSource written, Exception error)
    {
        written.SetException(error);
        _ = written.Task.Exception; // Observed here, for those who ignore the task.
    }
}
