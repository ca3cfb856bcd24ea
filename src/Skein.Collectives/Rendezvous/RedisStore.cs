using System.Collections.Concurrent;
using System.Net;
using StackExchange.Redis;

namespace Skein.Collectives.Rendezvous;

/// <summary>
/// A store in a Redis server, for jobs that must outlive rank 0. Keys are prefixed with the job's id, and expire a day
/// after they were last written. A server that is away for under 10 s is not lost. A waiting <see cref="GetAsync"/> asks again every 5 to 100 ms.
/// </summary>
public sealed class RedisStore : Store
{
    private const string CompareAndSetScript =
        """
        local present = redis.call('GET', KEYS[1])
        if ARGV[1] == '1' then
            if present ~= ARGV[2] then return 0 end
        elseif present then
            return 0
        end
        redis.call('SET', KEYS[1], ARGV[3], 'EX', ARGV[4])
        return 1
        """;

    private const string AddScript =
        """
        local sum = redis.call('INCRBY', KEYS[1], ARGV[1])
        redis.call('EXPIRE', KEYS[1], ARGV[2])
        return redis.call('GET', KEYS[1])
        """;

    private static readonly TimeSpan Expiry = TimeSpan.FromDays(1);

    // Also how long a call waits for a server that is restarting or failing over, before the server counts as lost.
    private static readonly TimeSpan AnswerTimeout = TimeSpan.FromSeconds(10);

    private static readonly TimeSpan FirstDelay = TimeSpan.FromMilliseconds(5);
    private static readonly TimeSpan LongestDelay = TimeSpan.FromMilliseconds(100);

    private readonly ConnectionMultiplexer connection;
    private readonly IDatabase database;
    private readonly string prefix;
    private readonly string name;
    private readonly ConcurrentDictionary<string, bool> written = new();

    private RedisStore(ConnectionMultiplexer connection, string jobId, string name)
    {
        this.connection = connection;
        database = connection.GetDatabase();
        prefix = $"skein:{jobId}:";
        this.name = name;
    }

    /// <summary>Connects to a Redis server, trying again until <paramref name="timeout"/> while it is not there.</summary>
    /// <param name="configuration">As StackExchange.Redis reads it, for example <c>host:6379,password=…,ssl=true</c>. Never logged.</param>
    /// <param name="jobId">What keeps the keys of jobs apart that share the server.</param>
    /// <param name="timeout">For connecting; over 0, at most 24 days.</param>
    /// <param name="cancellationToken">Ends the attempts early.</param>
    /// <exception cref="RendezvousException">The configuration is not valid, or the server was not reached or refused the password.</exception>
    public static async Task<RedisStore> ConnectAsync(
        string configuration, string jobId, TimeSpan timeout, CancellationToken cancellationToken = default)
    {
        ArgumentException.ThrowIfNullOrEmpty(jobId);
        ArgumentOutOfRangeException.ThrowIfLessThanOrEqual(timeout, TimeSpan.Zero);
        CheckTimeout(timeout);
        ConfigurationOptions options = Parse(configuration);
        string name = $"the Redis store at {string.Join(", ", options.EndPoints.Select(NameOf))}";
        TimeSpan patience = timeout < AnswerTimeout ? timeout : AnswerTimeout;
        options.ConnectTimeout = options.SyncTimeout = options.AsyncTimeout = (int)Math.Ceiling(patience.TotalMilliseconds);
        options.ConnectRetry = 0;
        options.AbortOnConnectFail = true;
        using var deadline = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        deadline.CancelAfter(timeout);
        ConnectionFailureType failure = ConnectionFailureType.UnableToConnect;
        while (true)
        {
            Task<ConnectionMultiplexer> connecting = ConnectionMultiplexer.ConnectAsync(options);
            try
            {
                return new RedisStore(await connecting.WaitAsync(deadline.Token).ConfigureAwait(false), jobId, name);
            }
            catch (RedisConnectionException error)
            {
                failure = error.FailureType;
            }
            catch (OperationCanceledException)
            {
                _ = DiscardAsync(connecting);
            }

            cancellationToken.ThrowIfCancellationRequested();
            if (failure == ConnectionFailureType.AuthenticationFailure || deadline.IsCancellationRequested)
            {
                // Without the library's message and inner error, which may quote the configuration.
                throw new RendezvousException(
                    $"could not connect to {name} within {timeout.TotalSeconds:0.###} s: {failure}; " +
                    "check that the server is running there, and in SKEIN_REDIS_STORE the user, the password, the database " +
                    "and, with ssl=true, that its certificate is trusted");
            }

            await Task.WhenAny(Task.Delay(LongestDelay, deadline.Token)).ConfigureAwait(false);
        }
    }

    /// <inheritdoc/>
    /// <exception cref="PeerLostException">The server was lost.</exception>
    public override Task SetAsync(string key, ReadOnlyMemory<byte> value, CancellationToken cancellationToken = default)
    {
        CheckKey(key);
        CheckValue(key, value);
        written[key] = true;
        return AskAsync(database.StringSetAsync(prefix + key, value, Expiry), cancellationToken);
    }

    /// <inheritdoc/>
    /// <exception cref="PeerLostException">The server was lost.</exception>
    public override async Task<byte[]> GetAsync(string key, TimeSpan timeout, CancellationToken cancellationToken = default)
    {
        CheckKey(key);
        CheckTimeout(timeout);
        using var limit = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        limit.CancelAfter(timeout);
        TimeSpan delay = FirstDelay;
        while (true)
        {
            byte[]? value = await AskAsync(database.StringGetAsync(prefix + key), cancellationToken).ConfigureAwait(false);
            if (value is not null) return value;
            try
            {
                await Task.Delay(delay, limit.Token).ConfigureAwait(false);
            }
            catch (OperationCanceledException) when (!cancellationToken.IsCancellationRequested)
            {
                throw NobodySet(key, timeout, name);
            }

            delay = delay * 2 < LongestDelay ? delay * 2 : LongestDelay;
        }
    }

    /// <inheritdoc/>
    /// <exception cref="PeerLostException">The server was lost.</exception>
    public override async Task<long> AddAsync(string key, long delta, CancellationToken cancellationToken = default)
    {
        CheckKey(key);
        written[key] = true;
        try
        {
            // The sum travels as text: Lua's numbers are doubles, which are exact only up to 2^53.
            RedisResult sum = await AskAsync(
                database.ScriptEvaluateAsync(AddScript, [prefix + key], [delta, (long)Expiry.TotalSeconds]), cancellationToken).ConfigureAwait(false);
            return (long)sum;
        }
        catch (RedisServerException error) when (IsNotAnInteger(error))
        {
            throw NotAnInteger(key);
        }
    }

    /// <inheritdoc/>
    /// <exception cref="PeerLostException">The server was lost.</exception>
    public override async Task<bool> CompareAndSetAsync(
        string key, ReadOnlyMemory<byte>? expected, ReadOnlyMemory<byte> desired, CancellationToken cancellationToken = default)
    {
        CheckKey(key);
        CheckValue(key, desired);
        written[key] = true;
        RedisValue[] arguments = [expected is null ? 0 : 1, expected ?? default, desired, (long)Expiry.TotalSeconds];
        return (bool)await AskAsync(
            database.ScriptEvaluateAsync(CompareAndSetScript, [prefix + key], arguments), cancellationToken).ConfigureAwait(false);
    }

    /// <inheritdoc/>
    /// <exception cref="PeerLostException">The server was lost.</exception>
    public override Task<bool> DeleteAsync(string key, CancellationToken cancellationToken = default)
    {
        CheckKey(key);
        return AskAsync(database.KeyDeleteAsync(prefix + key), cancellationToken);
    }

    /// <inheritdoc/>
    public override ValueTask DisposeAsync() => connection.DisposeAsync();

    /// <summary>Deletes what was written through this object, once a job has ended; for at most the time of one answer.</summary>
    internal async Task RemoveOwnKeysAsync()
    {
        RedisKey[] own = [.. written.Keys.Select(key => (RedisKey)(prefix + key))];
        try
        {
            await AskAsync(database.KeyDeleteAsync(own), CancellationToken.None).ConfigureAwait(false);
        }
        catch (SkeinException)
        {
            // The server is gone, or keeps them: they expire.
        }
    }

    private async Task<T> AskAsync<T>(Task<T> answer, CancellationToken cancellationToken)
    {
        try
        {
            return await answer.WaitAsync(cancellationToken).ConfigureAwait(false);
        }
        catch (RedisConnectionException error)
        {
            throw new PeerLostException($"{name} was lost: {error.FailureType}");
        }
        catch (RedisTimeoutException)
        {
            throw new PeerLostException($"{name} was lost: it did not answer within {connection.TimeoutMilliseconds} ms");
        }
        catch (Exception error) when (error is RedisServerException or RedisCommandException && !IsNotAnInteger(error))
        {
            throw new RendezvousException(
                $"{name} refused a request: {error.Message}; check the user's rights, the database and the server's memory limit, and SKEIN_REDIS_STORE",
                error);
        }
    }

    private static bool IsNotAnInteger(Exception error) => error.Message.Contains("not an integer") || error.Message.Contains("overflow");

    private static async Task DiscardAsync(Task<ConnectionMultiplexer> connecting)
    {
        try
        {
            await (await connecting.ConfigureAwait(false)).DisposeAsync().ConfigureAwait(false);
        }
        catch (RedisConnectionException)
        {
            // It had not come about.
        }
    }

    private static ConfigurationOptions Parse(string configuration)
    {
        ArgumentException.ThrowIfNullOrEmpty(configuration);
        const string Expected = "expected host:port, then options such as password=… or ssl=true, separated by commas";

        // The library would take a URL for a host name, and the password in it would end up in messages.
        if (configuration.Contains("://"))
        {
            throw new RendezvousException($"SKEIN_REDIS_STORE is a URL; {Expected}");
        }

        try
        {
            var options = ConfigurationOptions.Parse(configuration);
            return options.EndPoints.Count > 0 ? options : throw new RendezvousException($"SKEIN_REDIS_STORE names no server; {Expected}");
        }
        catch (ArgumentException)
        {
            throw new RendezvousException($"SKEIN_REDIS_STORE is not a valid configuration; {Expected}");
        }
    }

    private static string NameOf(EndPoint endpoint) => endpoint switch
    {
        DnsEndPoint dns => AuthenticatedConnection.Name(dns.Host, dns.Port == 0 ? 6379 : dns.Port),
        IPEndPoint ip => AuthenticatedConnection.Name(ip.Address.ToString(), ip.Port == 0 ? 6379 : ip.Port),
        _ => "an unknown address",
    };
}
