using System.Diagnostics;
using System.Globalization;
using System.Runtime.InteropServices;
using System.Text;

namespace Skein.Collectives.Transports.Mpi;

/// <summary>
/// The process's membership in the MPI world that <c>mpirun</c> made: Open MPI's library, called directly. Its handles are
/// addresses of symbols that the library exports, so that no compiled shim is needed; other MPI libraries differ there.
/// </summary>
/// <remarks>
/// Every call is short and none blocks, so that one lock around them serves all threads of the process, and the cheaper
/// "serialized" thread level suffices. Thread-safe.
/// </remarks>
internal sealed unsafe class OpenMpi
{
    private const int Success = 0;
    private const int ThreadSerialized = 2;
    private const int AnySource = -1;
    private const int MaximumErrorLength = 256;
    private const int IdleMilliseconds = 10;
    private const int TagUpperBoundKey = 0;
    private static readonly string[] LibraryNames = ["libmpi.so.40", "libmpi.so", "libmpi.40.dylib"];
    private static readonly TimeSpan FinalizePatience = TimeSpan.FromSeconds(10);
    private static readonly object Creation = new();
    private static OpenMpi? current;

    private readonly object gate = new();
    private readonly nint bytes;
    private readonly nint communicator;
    private readonly delegate* unmanaged<void*, int, nint, int, int, nint, nint*, int> isend;
    private readonly delegate* unmanaged<void*, int, nint, int, int, nint, nint*, int> irecv;
    private readonly delegate* unmanaged<nint*, int*, Status*, int> test;
    private readonly delegate* unmanaged<Status*, nint, int*, int> getCount;
    private readonly delegate* unmanaged<nint*, int> cancel;
    private readonly delegate* unmanaged<void*, int, nint, int, nint, nint*, int> ibcast;
    private readonly delegate* unmanaged<int, byte*, int*, int> errorString;
    private readonly delegate* unmanaged<int, int, nint, int*, Status*, int> iprobe;
    private readonly delegate* unmanaged<int> finalize;
    private readonly List<MpiRequest> sending = [];
    private bool finalized;

    private OpenMpi(nint library, TimeSpan timeout)
    {
        nint world = NativeLibrary.GetExport(library, "ompi_mpi_comm_world");
        bytes = NativeLibrary.GetExport(library, "ompi_mpi_byte");
        isend = (delegate* unmanaged<void*, int, nint, int, int, nint, nint*, int>)NativeLibrary.GetExport(library, "MPI_Isend");
        irecv = (delegate* unmanaged<void*, int, nint, int, int, nint, nint*, int>)NativeLibrary.GetExport(library, "MPI_Irecv");
        test = (delegate* unmanaged<nint*, int*, Status*, int>)NativeLibrary.GetExport(library, "MPI_Test");
        getCount = (delegate* unmanaged<Status*, nint, int*, int>)NativeLibrary.GetExport(library, "MPI_Get_count");
        cancel = (delegate* unmanaged<nint*, int>)NativeLibrary.GetExport(library, "MPI_Cancel");
        iprobe = (delegate* unmanaged<int, int, nint, int*, Status*, int>)NativeLibrary.GetExport(library, "MPI_Iprobe");
        ibcast = (delegate* unmanaged<void*, int, nint, int, nint, nint*, int>)NativeLibrary.GetExport(library, "MPI_Ibcast");
        errorString = (delegate* unmanaged<int, byte*, int*, int>)NativeLibrary.GetExport(library, "MPI_Error_string");
        finalize = (delegate* unmanaged<int>)NativeLibrary.GetExport(library, "MPI_Finalize");

        bool mine = Initialize(library);
        int rank, size;
        Check(((delegate* unmanaged<nint, int*, int>)NativeLibrary.GetExport(library, "MPI_Comm_rank"))(world, &rank), "MPI_Comm_rank");
        Check(((delegate* unmanaged<nint, int*, int>)NativeLibrary.GetExport(library, "MPI_Comm_size"))(world, &size), "MPI_Comm_size");
        (Rank, WorldSize) = (rank, size);
        LargestTag = ReadLargestTag(library, world);

        // A communicator of its own keeps the traffic apart from that of a program which uses MPI itself.
        nint own, handle;
        var request = new MpiRequest();
        Check(
            ((delegate* unmanaged<nint, nint*, nint*, int>)NativeLibrary.GetExport(library, "MPI_Comm_idup"))(world, &own, &handle),
            "MPI_Comm_idup");
        request.Start(handle);
        Await(request, "for all ranks of the MPI world to initialize", timeout);
        communicator = own;
        nint errorsReturn = NativeLibrary.GetExport(library, "ompi_mpi_errors_return");
        Check(
            ((delegate* unmanaged<nint, nint, int>)NativeLibrary.GetExport(library, "MPI_Comm_set_errhandler"))(own, errorsReturn),
            "MPI_Comm_set_errhandler");
        new Thread(KeepMoving) { IsBackground = true, Name = "skein mpi" }.Start();
        if (mine) AppDomain.CurrentDomain.ProcessExit += (_, _) => FinalizeAtExit();
    }

    /// <summary>This process's rank in the MPI world.</summary>
    public int Rank { get; }

    /// <summary>The number of processes in the MPI world.</summary>
    public int WorldSize { get; }

    /// <summary>The largest tag that a message may have.</summary>
    public int LargestTag { get; }

    /// <summary>The membership of this process, which all its groups share; the first call initializes MPI.</summary>
    /// <exception cref="RendezvousException">There is no Open MPI, or it cannot be used; says what to do.</exception>
    /// <exception cref="CollectiveTimeoutException">Other processes of the MPI world did not initialize in time.</exception>
    public static OpenMpi Join(TimeSpan timeout)
    {
        lock (Creation) return current ??= new OpenMpi(Load(), timeout);
    }

    /// <summary>Starts to send; the buffer must stay as it is until the request has completed.</summary>
    public void Send(MpiRequest request, void* buffer, int length, int destination, int tag)
    {
        lock (gate)
        {
            nint handle;
            Check(isend(buffer, length, bytes, destination, tag, communicator, &handle), "MPI_Isend");
            request.Start(handle);
            if (!Test(request)) sending.Add(request);
        }
    }

    /// <summary>Starts to receive one message of at most <paramref name="length"/> bytes.</summary>
    public void Receive(MpiRequest request, void* buffer, int length, int source, int tag)
    {
        lock (gate)
        {
            nint handle;
            Check(irecv(buffer, length, bytes, source, tag, communicator, &handle), "MPI_Irecv");
            request.Start(handle);
        }
    }

    /// <summary>Whether the operation has completed.</summary>
    /// <exception cref="MpiException">It failed.</exception>
    public bool Poll(MpiRequest request)
    {
        if (request.Completed) return true;
        lock (gate)
        {
            if (!Test(request)) return false;
            sending.Remove(request);
            return true;
        }
    }

    /// <summary>Withdraws a receive that nothing has matched.</summary>
    public void Cancel(MpiRequest request)
    {
        lock (gate)
        {
            if (request.Completed) return;
            fixed (nint* handle = &request.Handle) _ = cancel(handle);
        }
    }

    /// <summary>Copies rank 0's bytes to all processes of the MPI world; all have to call it, with the same length.</summary>
    /// <exception cref="CollectiveTimeoutException">Not all did in time.</exception>
    public void Broadcast(Span<byte> buffer, TimeSpan timeout)
    {
        fixed (byte* pointer = buffer)
        {
            var request = new MpiRequest();
            lock (gate)
            {
                nint handle;
                Check(ibcast(pointer, buffer.Length, bytes, 0, communicator, &handle), "MPI_Ibcast");
                request.Start(handle);
            }

            Await(request, "for all ranks of the MPI world to join the job", timeout);
        }
    }

    private static nint Load()
    {
        foreach (string name in LibraryNames)
        {
            if (!NativeLibrary.TryLoad(name, out nint library)) continue;
            if (NativeLibrary.TryGetExport(library, "ompi_mpi_comm_world", out _)) return library;
            throw new RendezvousException($"{name} is not Open MPI's, the only MPI that Skein works with; put Open MPI first on LD_LIBRARY_PATH, or use another transport");
        }

        throw new RendezvousException(
            $"the MPI transport needs Open MPI, but none of {string.Join(", ", LibraryNames)} can be loaded; install it (Debian: apt-get install openmpi-bin), or use another transport");
    }

    /// <returns>False if the program had initialized MPI itself, and so has to finalize it too.</returns>
    private bool Initialize(nint library)
    {
        int already, provided;
        _ = ((delegate* unmanaged<int*, int>)NativeLibrary.GetExport(library, "MPI_Initialized"))(&already);
        int code = already != 0
            ? ((delegate* unmanaged<int*, int>)NativeLibrary.GetExport(library, "MPI_Query_thread"))(&provided)
            : ((delegate* unmanaged<int*, byte***, int, int*, int>)NativeLibrary.GetExport(library, "MPI_Init_thread"))(null, null, ThreadSerialized, &provided);
        Check(code, "MPI_Init_thread");
        if (provided >= ThreadSerialized) return already == 0;
        throw new RendezvousException(
            $"MPI allows calls from its first thread only (thread level {provided}, but Skein needs {ThreadSerialized}, MPI_THREAD_SERIALIZED); initialize it with that level, or use another transport");
    }

    private static int ReadLargestTag(nint library, nint world)
    {
        int* value;
        int found;
        var getAttribute = (delegate* unmanaged<nint, int, int**, int*, int>)NativeLibrary.GetExport(library, "MPI_Comm_get_attr");
        return getAttribute(world, TagUpperBoundKey, &value, &found) == Success && found != 0 ? *value : short.MaxValue;
    }

    private void Await(MpiRequest request, string forWhat, TimeSpan timeout)
    {
        long start = Stopwatch.GetTimestamp();
        while (!Poll(request))
        {
            if (Stopwatch.GetElapsedTime(start) > timeout)
            {
                throw new CollectiveTimeoutException(string.Create(
                    CultureInfo.InvariantCulture,
                    $"rank {Rank} of {WorldSize} waited {timeout.TotalSeconds:0.###} s {forWhat}; see the other ranks' output"));
            }

            Thread.Sleep(1);
        }
    }

    private bool Test(MpiRequest request)
    {
        if (request.Completed) return true;
        Status status;
        int done, count;
        fixed (nint* handle = &request.Handle) Check(test(handle, &done, &status), "MPI_Test");
        if (done == 0) return false;
        Check(getCount(&status, bytes, &count), "MPI_Get_count");
        request.Complete(count);
        return true;
    }

    /// <summary>
    /// MPI moves messages only inside its calls, and a rank that computes makes none; without this its peers would wait
    /// for what it had sent.
    /// </summary>
    private void KeepMoving()
    {
        while (true)
        {
            int flag, pending;
            lock (gate)
            {
                if (finalized) return;
                _ = iprobe(AnySource, LargestTag, communicator, &flag, null);
                sending.RemoveAll(static request => request.Completed);
                pending = sending.Count;
            }

            Thread.Sleep(pending > 0 ? 1 : IdleMilliseconds);
        }
    }

    /// <summary>
    /// MPI wants every process to finalize, and waits for all in it; a process that fails must not wait, so that mpirun
    /// sees it end and stops the others.
    /// </summary>
    private void FinalizeAtExit()
    {
        if (Environment.ExitCode != 0) return;
        var finalizing = new Thread(() =>
        {
            lock (gate)
            {
                finalized = true;
                _ = finalize();
            }
        })
        { IsBackground = true };
        finalizing.Start();
        finalizing.Join(FinalizePatience);
    }

    private void Check(int code, string function)
    {
        if (code == Success) return;
        byte* text = stackalloc byte[MaximumErrorLength];
        int length = 0;
        _ = errorString(code, text, &length);
        throw new MpiException($"{function} failed: {Encoding.UTF8.GetString(text, length)}");
    }

    /// <summary>Open MPI's <c>MPI_Status</c>; this needs only its size.</summary>
    [StructLayout(LayoutKind.Sequential, Size = 24)]
    private struct Status
    {
        public int Source;
    }
}
