using System.Buffers.Binary;
using System.Net;
using System.Text;
using Skein.Collectives.Rendezvous;

namespace Skein.Collectives.Transports.Mpi;

/// <summary>
/// How the ranks that mpirun started find each other when nothing else was arranged: rank 0 starts the store on a free
/// port and makes the job's secret, and MPI carries both to the other ranks.
/// </summary>
internal static class MpiRendezvous
{
    private const int MessageBytes = 512;

    /// <summary>Whether the ranks meet this way. The same on all ranks of a job.</summary>
    public static bool Applies(ProcessGroupOptions options) =>
        options is { WorldSize: > 1, RedisStore: null, StoreHostedByLauncher: false }
        && (options.MasterPort == 0
            ? options.Transport == TransportKind.Mpi || IsSet("OMPI_COMM_WORLD_SIZE")
            : options.Secret is null && (IsSet("OMPI_COMM_WORLD_SIZE") || IsSet("PMIX_NAMESPACE")));

    /// <summary>Blocks until all ranks are here.</summary>
    /// <returns>The options with the rendezvous filled in, and on rank 0 the store that was started.</returns>
    public static (ProcessGroupOptions Options, TcpStoreServer? Server) Meet(ProcessGroupOptions options)
    {
        OpenMpi mpi = Join(options);
        byte[] message = new byte[MessageBytes];
        TcpStoreServer? server = null;
        if (options.Rank == 0)
        {
            JobSecret secret = (options.Secret ?? JobSecret.Generate()).WithEncryption(options.Encryption);
            server = TcpStoreServer.Start(new IPEndPoint(OwnAddress(options), 0), secret, options.Logger);
            string text = $"{server.Endpoint.Address} {server.Endpoint.Port} {secret.ToHex()}";
            BinaryPrimitives.WriteInt32LittleEndian(message, Encoding.UTF8.GetBytes(text, message.AsSpan(4)));
        }

        mpi.Broadcast(message, options.Timeout);
        string[] parts = Encoding.UTF8.GetString(message, 4, BinaryPrimitives.ReadInt32LittleEndian(message)).Split(' ');
        return (options with
        {
            MasterAddress = parts[0],
            MasterPort = int.Parse(parts[1]),
            Secret = JobSecret.FromHex(parts[2]).WithEncryption(options.Encryption),
            Transport = options.Transport == TransportKind.Auto ? TransportKind.Mpi : options.Transport,
        }, server);
    }

    /// <summary>The MPI world, whose ranks have to be those of the job.</summary>
    /// <exception cref="RendezvousException">They are not.</exception>
    public static OpenMpi Join(ProcessGroupOptions options)
    {
        OpenMpi mpi = OpenMpi.Join(options.Timeout);
        if (mpi.Rank == options.Rank && mpi.WorldSize == options.WorldSize) return mpi;
        if (IsSet("PMI_RANK") && !IsSet("OMPI_COMM_WORLD_SIZE"))
        {
            throw new RendezvousException(
                $"rank {options.Rank} was started by MPICH (PMI_RANK is set), but the transport mpi is Open MPI's: start the job with Open MPI's mpirun, "
                + "or use the transport auto, tcp or shm, with MASTER_ADDR, MASTER_PORT and SKEIN_JOB_SECRET");
        }

        throw new RendezvousException(
            $"this process is rank {options.Rank} of {options.WorldSize} in the job, but rank {mpi.Rank} of {mpi.WorldSize} in the MPI world; "
            + "start it with mpirun (or srun --mpi) and without RANK and WORLD_SIZE, or use another transport");
    }

    private static bool IsSet(string variable) => Environment.GetEnvironmentVariable(variable) is { Length: > 0 };

    private static IPAddress OwnAddress(ProcessGroupOptions options) => options.LocalWorldSize == options.WorldSize
        ? IPAddress.Loopback
        : ListenAddress.Outward("rank 0 has no network address that the other hosts could reach for certain: set MASTER_ADDR and MASTER_PORT, or");
}
