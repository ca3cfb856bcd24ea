namespace Skein.Collectives;

/// <summary>
/// Runs the calls of one group one at a time, in the order they were made. A blocking call runs on the caller's
/// thread when nothing is ahead of it, which saves two thread switches; all others run on a thread of the
/// group's own, started with the first of them. Thread-safe.
/// </summary>
internal sealed class CallQueue(Action<CollectiveCall, bool> execute, string threadName)
{
    private readonly object gate = new();
    private readonly Queue<CollectiveCall> pending = [];
    private Thread? thread;
    private bool busy;
    private bool closed;

    public void Run(CollectiveCall call)
    {
        lock (gate)
        {
            ObjectDisposedException.ThrowIf(closed, typeof(ProcessGroup));
            if (!busy && pending.Count == 0)
            {
                busy = true;
            }
            else
            {
                call.Handle = new CollectiveHandle();
                Append(call);
            }
        }

        if (call.Handle is { } handle)
        {
            handle.Wait();
            call.Handle = null;
            return;
        }

        try
        {
            execute(call, true);
        }
        finally
        {
            Release();
        }
    }

    public void Enqueue(CollectiveCall call)
    {
        lock (gate)
        {
            ObjectDisposedException.ThrowIf(closed, typeof(ProcessGroup));
            Append(call);
        }
    }

    /// <summary>Refuses further calls, and returns when those made before have finished.</summary>
    public void Close()
    {
        lock (gate)
        {
            closed = true;
            Monitor.PulseAll(gate);
            // A blocking call on another thread still uses what is freed after this.
            while (busy || pending.Count > 0) Monitor.Wait(gate);
        }

        thread?.Join();
    }

    private void Append(CollectiveCall call)
    {
        pending.Enqueue(call);
        if (thread is null)
        {
            thread = new Thread(Work) { IsBackground = true, Name = threadName };
            thread.Start();
        }

        if (!busy) Monitor.PulseAll(gate);
    }

    private void Work()
    {
        while (true)
        {
            CollectiveCall call;
            lock (gate)
            {
                while (busy || pending.Count == 0)
                {
                    if (closed && pending.Count == 0) return;
                    Monitor.Wait(gate);
                }

                call = pending.Dequeue();
                busy = true;
            }

            CollectiveHandle handle = call.Handle!;
            Exception? failure = null;
            try
            {
                execute(call, false);
            }
            catch (Exception error)
            {
                // It belongs to whoever awaits the handle; this thread goes on to fail the calls behind it.
                failure = error;
            }

            call.Unpin();
            Release();
            if (failure is null) handle.Complete();
            else handle.Fail(failure);
        }
    }

    private void Release()
    {
        lock (gate)
        {
            busy = false;
            if (pending.Count > 0 || closed) Monitor.PulseAll(gate);
        }
    }
}
