using System.Runtime.Versioning;
using System.Security.Cryptography;

namespace Skein.Collectives.Rendezvous;

/// <summary>
/// The key that every process of a job shares, and that proves on each connection that the other side belongs to the
/// job. Never printed: <see cref="ToString"/> is redacted. Immutable and thread-safe.
/// </summary>
public sealed class JobSecret
{
    /// <summary>The shortest secret accepted, in bytes.</summary>
    public const int MinimumLength = 16;

    // Sixteen random bytes have fewer different ones about once in 10^20 times.
    private const int MinimumDifferent = 5;

    private const UnixFileMode Others = UnixFileMode.GroupRead | UnixFileMode.GroupWrite | UnixFileMode.OtherRead | UnixFileMode.OtherWrite;

    private readonly byte[] key;

    private JobSecret(byte[] key, bool encrypts = false)
    {
        this.key = key;
        Encrypts = encrypts;
    }

    /// <summary>Whether the job's connections are encrypted with keys made from it, and not only authenticated.</summary>
    public bool Encrypts { get; }

    /// <summary>A new secret of 32 random bytes.</summary>
    /// <param name="encrypts">Whether the job's connections are to be encrypted, on all its processes alike.</param>
    public static JobSecret Generate(bool encrypts = false) => new(RandomNumberGenerator.GetBytes(32), encrypts);

    /// <summary>The same secret, with the job's connections encrypted or not.</summary>
    public JobSecret WithEncryption(bool encrypts) => new(key, encrypts);

    /// <summary>Reads a secret written in hexadecimal.</summary>
    /// <exception cref="FormatException">Not hexadecimal, shorter than <see cref="MinimumLength"/> bytes, or a few bytes over and over.</exception>
    public static JobSecret FromHex(string hex)
    {
        ArgumentNullException.ThrowIfNull(hex);
        byte[] key;
        try
        {
            key = Convert.FromHexString(hex.Trim());
        }
        catch (FormatException)
        {
            throw new FormatException("the job's secret is not hexadecimal; make one with: openssl rand -hex 32");
        }

        if (key.Length < MinimumLength)
        {
            throw new FormatException(
                $"the job's secret has {key.Length} bytes, but needs at least {MinimumLength}; make one with: openssl rand -hex 32");
        }

        return key.Distinct().Count() >= MinimumDifferent
            ? new JobSecret(key)
            : throw new FormatException("the job's secret can be guessed: it repeats a few bytes; make one with: openssl rand -hex 32");
    }

    /// <summary>
    /// The secret in <c>SKEIN_JOB_SECRET</c> or in the file <c>SKEIN_JOB_SECRET_FILE</c>, which encrypts where
    /// <c>SKEIN_ENCRYPTION</c> is on; null when neither is set.
    /// </summary>
    /// <param name="variable">Looks up a variable; null for this process's environment.</param>
    /// <exception cref="FormatException">It is not a valid secret.</exception>
    /// <exception cref="RendezvousException">The file cannot be read, or other users can read it.</exception>
    public static JobSecret? FromEnvironment(Func<string, string?>? variable = null)
    {
        variable ??= Environment.GetEnvironmentVariable;
        bool encrypts = LauncherEnvironment.ReadEncryption(variable);
        if (variable("SKEIN_JOB_SECRET") is { Length: > 0 } hex) return FromHex(hex).WithEncryption(encrypts);
        if (variable("SKEIN_JOB_SECRET_FILE") is not { Length: > 0 } path) return null;
        try
        {
            if (!OperatingSystem.IsWindows() && (ModeOf(path) & Others) is not UnixFileMode.None)
            {
                throw new RendezvousException($"SKEIN_JOB_SECRET_FILE names {path}, which other users can read or write: chmod 600 {path}");
            }

            return FromHex(File.ReadAllText(path)).WithEncryption(encrypts);
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            throw new RendezvousException($"SKEIN_JOB_SECRET_FILE names {path}, which cannot be read: {error.Message}", error);
        }
    }

    // Of the file itself where the path is a link, as secrets that are mounted into a container are.
    [UnsupportedOSPlatform("windows")]
    private static UnixFileMode ModeOf(string path) => File.GetUnixFileMode(File.ResolveLinkTarget(path, returnFinalTarget: true)?.FullName ?? path);

    /// <summary>The secret in hexadecimal, to hand to a worker through its environment.</summary>
    public string ToHex() => Convert.ToHexStringLower(key);

    /// <summary>Never the secret.</summary>
    public override string ToString() => "JobSecret(redacted)";

    internal ReadOnlySpan<byte> Key => key;
}
