using System.Buffers.Binary;
using System.Security.Cryptography;

namespace Skein.Collectives.Rendezvous;

/// <summary>
/// Mutual HMAC-SHA256 challenge-response, before anything else is parsed. All frames have a fixed size:
/// <code>
/// listener → client   magic, listener's nonce
/// client → listener   magic, client's nonce, purpose, length and SHA-256 of the hello, MAC as client
/// listener → client   answer, MAC as listener
/// client → listener   hello
/// listener → client   admitted
/// </code>
/// The highest bit of the purpose says that what follows is encrypted (<see cref="EncryptedChannel"/>), which both sides must
/// want; the keys come from the secret and both nonces, so that who only relays the handshake can neither read nor change
/// what follows. Each MAC covers its role, both nonces, purpose and hello, so that it serves neither in the other direction nor on
/// another connection. The listener proves itself only to a client that proved itself first. It may drop a client that
/// is too slow as late as after the hello, so only its last byte says that the connection is one of the job's.
/// </summary>
internal static class Handshake
{
    /// <summary>The longest hello, in bytes.</summary>
    public const int MaximumHelloLength = 1024;

    /// <summary>How long either side waits for the whole handshake, unless told otherwise.</summary>
    public static readonly TimeSpan DefaultTimeout = TimeSpan.FromSeconds(10);

    private const int MagicLength = 4;
    private const int NonceLength = 32;
    private const int MacLength = HMACSHA256.HashSizeInBytes;
    private const int ChallengeLength = MagicLength + NonceLength;
    private const int PurposeOffset = MagicLength + NonceLength;
    private const int LengthOffset = PurposeOffset + 1;
    private const int HashOffset = LengthOffset + sizeof(ushort);
    private const int ClaimLength = HashOffset + SHA256.HashSizeInBytes;
    private const int ProofLength = ClaimLength + MacLength;
    private const int AnswerLength = 1 + MacLength;
    private const byte EncryptedBit = 0x80;

    /// <summary>The listener's last word, once it has counted the client among the job's.</summary>
    public static ReadOnlyMemory<byte> Admitted { get; } = new byte[] { 1 };

    private static ReadOnlySpan<byte> Magic => "SKN1"u8;
    private static ReadOnlySpan<byte> ClientRole => "skein-1 client"u8;
    private static ReadOnlySpan<byte> ListenerRole => "skein-1 listener"u8;
    private static ReadOnlySpan<byte> TrafficRole => "skein-1 traffic"u8;

    internal enum Answer : byte
    {
        Accepted = 1,

        /// <summary>The client's MAC is wrong. Carries no MAC: the listener proves nothing to a stranger.</summary>
        Refused = 2,

        /// <summary>The client belongs to the job, but nobody serves this purpose here (yet).</summary>
        NotServed = 3,

        /// <summary>One side encrypts and the other does not.</summary>
        EncryptionDiffers = 4,
    }

    /// <summary>The listener's side.</summary>
    /// <returns>The purpose, hello and keys of a client that knows the secret; null when <paramref name="isServed"/> denies the purpose.</returns>
    /// <exception cref="InvalidDataException">The client does not speak this protocol.</exception>
    /// <exception cref="JobAuthenticationException">The client does not know the secret; it has been told so.</exception>
    public static async Task<(byte Purpose, byte[] Hello, TrafficKeys Keys)?> AcceptAsync(
        Stream stream, JobSecret secret, Func<byte, bool> isServed, CancellationToken cancellationToken)
    {
        byte[] challenge = NewChallenge();
        await stream.WriteAsync(challenge, cancellationToken).ConfigureAwait(false);

        var proof = new byte[ProofLength];
        await stream.ReadExactlyAsync(proof, cancellationToken).ConfigureAwait(false);
        if (!proof.AsSpan(0, MagicLength).SequenceEqual(Magic))
        {
            throw new InvalidDataException("the client does not speak Skein's handshake");
        }

        byte[] expected = ComputeMac(secret, ClientRole, challenge, proof.AsSpan(0, ClaimLength), default);
        if (!CryptographicOperations.FixedTimeEquals(expected, proof.AsSpan(ClaimLength)))
        {
            var refusal = new byte[AnswerLength];
            refusal[0] = (byte)Answer.Refused;
            await stream.WriteAsync(refusal, cancellationToken).ConfigureAwait(false);
            throw new JobAuthenticationException("the client's secret differs from the job's");
        }

        int length = BinaryPrimitives.ReadUInt16LittleEndian(proof.AsSpan(LengthOffset));
        if (length > MaximumHelloLength)
        {
            throw new InvalidDataException($"the client announces a hello of {length} bytes; at most {MaximumHelloLength} are allowed");
        }

        byte purpose = (byte)(proof[PurposeOffset] & ~EncryptedBit);
        bool encrypts = (proof[PurposeOffset] & EncryptedBit) != 0;
        var answer = new byte[AnswerLength];
        answer[0] = (byte)(encrypts != secret.Encrypts ? Answer.EncryptionDiffers : isServed(purpose) ? Answer.Accepted : Answer.NotServed);
        ComputeMac(secret, ListenerRole, challenge, proof.AsSpan(0, ClaimLength), answer.AsSpan(0, 1)).CopyTo(answer, 1);
        await stream.WriteAsync(answer, cancellationToken).ConfigureAwait(false);
        if (answer[0] == (byte)Answer.NotServed) return null;
        if (answer[0] == (byte)Answer.EncryptionDiffers)
        {
            throw new JobAuthenticationException(
                $"the client {(encrypts ? "encrypts" : "does not encrypt")} and this process does {(encrypts ? "not" : "so")}: "
                + "set SKEIN_ENCRYPTION alike");
        }

        var hello = new byte[length];
        await stream.ReadExactlyAsync(hello, cancellationToken).ConfigureAwait(false);
        if (!CryptographicOperations.FixedTimeEquals(SHA256.HashData(hello), proof.AsSpan(HashOffset, SHA256.HashSizeInBytes)))
        {
            throw new InvalidDataException("the client's hello is not the one it signed");
        }

        return (purpose, hello, DeriveKeys(secret, challenge, proof));
    }

    /// <summary>The client's side.</summary>
    /// <returns>The connection's keys; null when the listener does not serve <paramref name="purpose"/>.</returns>
    /// <exception cref="InvalidDataException">The listener does not speak this protocol.</exception>
    /// <exception cref="JobAuthenticationException">The two sides' secrets differ.</exception>
    public static async Task<TrafficKeys?> ConnectAsync(
        Stream stream, JobSecret secret, byte purpose, ReadOnlyMemory<byte> hello, string address, CancellationToken cancellationToken)
    {
        var challenge = new byte[ChallengeLength];
        await stream.ReadExactlyAsync(challenge, cancellationToken).ConfigureAwait(false);
        if (!challenge.AsSpan(0, MagicLength).SequenceEqual(Magic))
        {
            throw new InvalidDataException("it does not speak Skein's handshake");
        }

        byte[] proof = NewProof(secret, challenge, purpose, hello.Span);
        await stream.WriteAsync(proof, cancellationToken).ConfigureAwait(false);

        var answer = new byte[AnswerLength];
        await stream.ReadExactlyAsync(answer, cancellationToken).ConfigureAwait(false);
        if (answer[0] == (byte)Answer.Refused)
        {
            throw new JobAuthenticationException(
                $"the connection to {address} was refused: the secret differs; set the same SKEIN_JOB_SECRET on every process of the job");
        }

        byte[] expected = ComputeMac(secret, ListenerRole, challenge, proof.AsSpan(0, ClaimLength), answer.AsSpan(0, 1));
        if (!CryptographicOperations.FixedTimeEquals(expected, answer.AsSpan(1)))
        {
            throw new JobAuthenticationException(
                $"what listens at {address} was refused: it does not know the job's secret; check the address, and set the same SKEIN_JOB_SECRET on every process of the job");
        }

        if (answer[0] == (byte)Answer.EncryptionDiffers)
        {
            throw new JobAuthenticationException(
                $"the connection to {address} was refused: SKEIN_ENCRYPTION is {(secret.Encrypts ? "on" : "off")} here and "
                + $"{(secret.Encrypts ? "off" : "on")} there; set the same on every process of the job");
        }

        if (answer[0] != (byte)Answer.Accepted) return null;
        await stream.WriteAsync(hello, cancellationToken).ConfigureAwait(false);
        return DeriveKeys(secret, challenge, proof);
    }

    /// <summary>The client's side, after <see cref="ConnectAsync"/>.</summary>
    /// <exception cref="IOException">The listener dropped this client.</exception>
    /// <exception cref="InvalidDataException">It said something else.</exception>
    public static async Task WaitForAdmissionAsync(Stream stream, CancellationToken cancellationToken)
    {
        var word = new byte[Admitted.Length];
        if (await stream.ReadAsync(word, cancellationToken).ConfigureAwait(false) == 0)
        {
            throw new IOException("it closed the connection after the handshake, before it admitted this process");
        }

        if (!Admitted.Span.SequenceEqual(word)) throw new InvalidDataException("what it said after the handshake is no admission");
    }

    internal static byte[] NewChallenge()
    {
        var challenge = new byte[ChallengeLength];
        Magic.CopyTo(challenge);
        RandomNumberGenerator.Fill(challenge.AsSpan(MagicLength));
        return challenge;
    }

    internal static byte[] NewProof(JobSecret secret, ReadOnlySpan<byte> challenge, byte purpose, ReadOnlySpan<byte> hello)
    {
        var proof = new byte[ProofLength];
        Magic.CopyTo(proof);
        RandomNumberGenerator.Fill(proof.AsSpan(MagicLength, NonceLength));
        proof[PurposeOffset] = secret.Encrypts ? (byte)(purpose | EncryptedBit) : purpose;
        BinaryPrimitives.WriteUInt16LittleEndian(proof.AsSpan(LengthOffset), (ushort)hello.Length);
        SHA256.HashData(hello, proof.AsSpan(HashOffset));
        ComputeMac(secret, ClientRole, challenge, proof.AsSpan(0, ClaimLength), default).CopyTo(proof, ClaimLength);
        return proof;
    }

    // Different on every connection, since both nonces are.
    private static TrafficKeys DeriveKeys(JobSecret secret, ReadOnlySpan<byte> challenge, ReadOnlySpan<byte> proof)
    {
        const int KeyLength = 32;
        byte[] salt = [.. challenge, .. proof[..ClaimLength]];
        byte[] keys = new byte[2 * KeyLength];
        HKDF.DeriveKey(HashAlgorithmName.SHA256, secret.Key, keys, salt, TrafficRole);
        return new TrafficKeys(keys[..KeyLength], keys[KeyLength..]);
    }

    // Every part but the role has a fixed length and no role is a prefix of the other: the concatenation is unambiguous.
    private static byte[] ComputeMac(
        JobSecret secret, ReadOnlySpan<byte> role, ReadOnlySpan<byte> challenge, ReadOnlySpan<byte> claim, ReadOnlySpan<byte> answer)
    {
        using var mac = IncrementalHash.CreateHMAC(HashAlgorithmName.SHA256, secret.Key);
        mac.AppendData(role);
        mac.AppendData(challenge);
        mac.AppendData(claim);
        mac.AppendData(answer);
        return mac.GetHashAndReset();
    }
}
