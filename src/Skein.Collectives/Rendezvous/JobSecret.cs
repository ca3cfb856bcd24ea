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

    private readonly byte[] key;

    private JobSecret(byte[] key) => this.key = key;

    /// <summary>A new secret of 32 random bytes.</summary>
    public static JobSecret Generate() => new(RandomNumberGenerator.GetBytes(32));

    /// <summary>Reads a secret written in hexadecimal.</summary>
    /// <exception cref="FormatException">Not hexadecimal, or shorter than <see cref="MinimumLength"/> bytes.</exception>
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

        return new JobSecret(key);
    }

    /// <summary>The secret in <c>SKEIN_JOB_SECRET</c> or in the file <c>SKEIN_JOB_SECRET_FILE</c>; null when neither is set.</summary>
    /// <param name="variable">Looks up a variable; null for this process's environment.</param>
    /// <exception cref="FormatException">It is not a valid secret.</exception>
    /// <exception cref="RendezvousException">The file cannot be read.</exception>
    public static JobSecret? FromEnvironment(Func<string, string?>? variable = null)
    {
        variable ??= Environment.GetEnvironmentVariable;
        if (variable("SKEIN_JOB_SECRET") is { Length: > 0 } hex) return FromHex(hex);
        if (variable("SKEIN_JOB_SECRET_FILE") is not { Length: > 0 } path) return null;
        try
        {
            return FromHex(File.ReadAllText(path));
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            throw new RendezvousException($"SKEIN_JOB_SECRET_FILE names {path}, which cannot be read: {error.Message}", error);
        }
    }

    /// <summary>The secret in hexadecimal, to hand to a worker through its environment.</summary>
    public string ToHex() => Convert.ToHexStringLower(key);

    /// <summary>Never the secret.</summary>
    public override string ToString() => "JobSecret(redacted)";

    internal ReadOnlySpan<byte> Key => key;
}
