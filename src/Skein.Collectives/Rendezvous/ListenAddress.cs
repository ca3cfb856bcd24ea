using System.Net;
using System.Net.NetworkInformation;
using System.Net.Sockets;

namespace Skein.Collectives.Rendezvous;

/// <summary>Where on this host the processes of a job listen, and how they reach the job's master from here. Immutable.</summary>
/// <param name="Address">The one address to listen at: that of the interface which leads to the master.</param>
/// <param name="Master">
/// The master as it was named, but for a name that means loopback on this host while the job has others: then
/// <paramref name="Address"/>, which the others can reach too.
/// </param>
public sealed record ListenAddress(IPAddress Address, string Master)
{
    /// <summary>Finds the address; sends nothing to the master.</summary>
    /// <param name="master">The master's name or address, as the other hosts know it; of several, the first says which network.</param>
    /// <param name="withinHost">Whether all processes of the job are on this host.</param>
    /// <param name="setting">What <paramref name="master"/> was read from, for messages.</param>
    /// <param name="cancellationToken">Ends the look-up of the name.</param>
    /// <exception cref="RendezvousException">The name does not resolve, or no interface leads there; names the setting and its value.</exception>
    public static async Task<ListenAddress> FindAsync(
        string master, bool withinHost, string setting, CancellationToken cancellationToken = default)
    {
        IPAddress[] found;
        string name = master.Split(',')[0];
        try
        {
            found = await Dns.GetHostAddressesAsync(name, cancellationToken).ConfigureAwait(false);
        }
        catch (SocketException error)
        {
            throw new RendezvousException(
                $"{setting} names '{name}', which does not resolve: {error.Message}; give a name or an address that this host knows"
                + (setting == "MASTER_ADDR" ? "" : ", in MASTER_ADDR with MASTER_PORT"), error);
        }

        if (withinHost && IPAddress.IsLoopback(found[0])) return new ListenAddress(found[0], master);
        // A link-local address means another interface on each host.
        IPAddress[] reachable = [.. found.Where(address => !IPAddress.IsLoopback(address) && !address.IsIPv6LinkLocal)];
        if (reachable.Length == 0 && (IsLoopbackByNature(name) || !found.All(IPAddress.IsLoopback))) reachable = found;

        // Debian gives a host's own name the address 127.0.1.1, at which no other host finds it.
        if (reachable.Length == 0)
        {
            IPAddress outward = Outward(
                $"{setting} names '{name}', which this host takes for itself alone ({found[0]}, see /etc/hosts), and no network interface stands out");
            return new ListenAddress(outward, master == name ? outward.ToString() : $"{outward}{master[name.Length..]}");
        }

        SocketException? last = null;
        foreach (IPAddress candidate in reachable)
        {
            try
            {
                return new ListenAddress(await InterfaceToAsync(candidate, cancellationToken).ConfigureAwait(false), master);
            }
            catch (SocketException error)
            {
                last = error;
            }
        }

        throw new RendezvousException($"{setting} names '{name}' ({reachable[^1]}), to which this host knows no way: {last!.Message}", last);
    }

    /// <summary>This host's address in the network that leads out of it, or in the only one it has.</summary>
    /// <param name="problem">Why it is needed, for the message when there is none.</param>
    internal static IPAddress Outward(string problem)
    {
        (int Gateways, IPAddress Address)[] candidates = [.. NetworkInterface.GetAllNetworkInterfaces()
            .Where(card => card.OperationalStatus != OperationalStatus.Down && card.NetworkInterfaceType != NetworkInterfaceType.Loopback)
            .Select(card => card.GetIPProperties())
            .SelectMany(card => card.UnicastAddresses.Select(own => (card.GatewayAddresses.Count, own.Address)))
            .Where(own => own.Address.AddressFamily == AddressFamily.InterNetwork)
            .OrderByDescending(own => own.Count)];
        return candidates.Length > 0 && (candidates.Length == 1 || candidates[0].Gateways > 0)
            ? candidates[0].Address
            : throw new RendezvousException($"{problem}: give the address at which the other hosts reach it");
    }

    private static bool IsLoopbackByNature(string master) =>
        IPAddress.TryParse(master, out _) || master is "localhost" || master.EndsWith(".localhost", StringComparison.Ordinal);

    private static async Task<IPAddress> InterfaceToAsync(IPAddress master, CancellationToken cancellationToken)
    {
        if (IPAddress.IsLoopback(master)) return master;
        // The kernel chooses the interface when a datagram socket is connected. Nothing is sent.
        using var probe = new Socket(master.AddressFamily, SocketType.Dgram, ProtocolType.Udp);
        await probe.ConnectAsync(new IPEndPoint(master, 1), cancellationToken).ConfigureAwait(false);
        return ((IPEndPoint)probe.LocalEndPoint!).Address;
    }
}
