namespace Skein.Collectives.Rendezvous;

/// <summary>What an authenticated connection is for: the byte by which a listener chooses the handler.</summary>
internal static class ConnectionPurpose
{
    public const byte Store = 1;
    public const byte Lifeline = 2;
    public const byte Link = 3;
    public const byte Control = 4;
    public const byte Data = 5;
    public const byte Gossip = 6;
}
