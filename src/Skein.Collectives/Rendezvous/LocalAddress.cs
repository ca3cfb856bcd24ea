using System.Net;
using System.Net.Sockets;

namespace Skein.Collectives.Rendezvous;

/// <summary>Where this host is reached by the others of a job. Thread-safe.</summary>
public static class LocalAddress
{
    /// <summary>
    /// Finds the address of this host's interface that leads to <paramref name="host"/>: the one that the job was told to use.
    /// </summary>
    /// <param name="host">The name or address of a host of the job; this host itself has the address that it goes by.</param>
    /// <param name="setting">What named it, for the message.</param>
    /// <param name="cancellationToken">Gives up.</param>
    /// <exception cref="RendezvousException">The name does not resolve.</exception>
    public static async Task<IPAddress> TowardAsync(string host, string setting, CancellationToken cancellationToken = default)
    {
        IPAddress[] found;
        try
        {
            found = await Dns.GetHostAddressesAsync(host, cancellationToken).ConfigureAwait(false);
        }
        catch (SocketException error)
        {
            throw new RendezvousException($"{setting} is '{host}', which does not resolve: {error.Message}", error);
        }

        IPAddress address = found[0];
        if (IPAddress.IsLoopback(address)) return address;

        // Nothing is sent.
        using var probe = new Socket(address.AddressFamily, SocketType.Dgram, ProtocolType.Udp);
        await probe.ConnectAsync(new IPEndPoint(address, 1), cancellationToken).ConfigureAwait(false);
        return ((IPEndPoint)probe.LocalEndPoint!).Address;
    }
}
