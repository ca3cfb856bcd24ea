using System.Net;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Connections;
using Microsoft.AspNetCore.Hosting;
using Microsoft.AspNetCore.Hosting.Server;
using Microsoft.AspNetCore.Hosting.Server.Features;
using Microsoft.AspNetCore.Server.Kestrel.Core;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Diagnostics.HealthChecks;
using Microsoft.Extensions.Hosting;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Abstractions;
using Skein.Collectives.Rendezvous;

namespace Skein.ParameterServer.Control;

/// <summary>
/// Serves gRPC to the members of a job, with the standard health and reflection services: HTTP/2 without TLS on
/// connections that have proved to know the job's secret. Reads no configuration and handles no signals.
/// </summary>
internal sealed class ControlHost : IAsyncDisposable
{
    /// <summary>The longest message either way, in bytes.</summary>
    public const int MaximumMessageLength = 4 << 20;

    /// <summary>How long calls may go on after the host was told to stop.</summary>
    private static readonly TimeSpan StopTimeout = TimeSpan.FromSeconds(2);

    private readonly WebApplication application;

    private ControlHost(WebApplication application, IPEndPoint endpoint)
    {
        this.application = application;
        Endpoint = endpoint;
    }

    /// <summary>The address that it listens at, with the port that the system chose if none was asked for.</summary>
    public IPEndPoint Endpoint { get; }

    /// <summary>Starts to serve <paramref name="service"/>.</summary>
    /// <exception cref="Skein.Collectives.RendezvousException">The address cannot be listened at.</exception>
    public static async Task<ControlHost> StartAsync<TService>(
        IPEndPoint listen, JobSecret secret, TService service, ILogger? logger, CancellationToken cancellationToken)
        where TService : class
    {
        logger ??= NullLogger.Instance;
        WebApplicationBuilder builder = WebApplication.CreateEmptyBuilder(new WebApplicationOptions());
        builder.Logging.SetMinimumLevel(LogLevel.Warning).AddProvider(new GivenLogger(logger));
        builder.WebHost.UseKestrelCore();
        builder.Services.AddSingleton<IConnectionListenerFactory>(new ControlTransport(secret, logger));
        builder.Services.Configure<KestrelServerOptions>(kestrel =>
        {
            kestrel.AddServerHeader = false;
            kestrel.Listen(listen, static endpoint => endpoint.Protocols = HttpProtocols.Http2);
        });
        builder.Services.Configure<HostOptions>(host => host.ShutdownTimeout = StopTimeout);
        builder.Services.AddSingleton<IHostLifetime, NoSignals>();
        builder.Services.AddRouting();
        builder.Services.AddGrpc(grpc =>
        {
            grpc.MaxReceiveMessageSize = MaximumMessageLength;
            grpc.MaxSendMessageSize = MaximumMessageLength;
        });
        builder.Services.AddGrpcHealthChecks().AddCheck("answers", () => HealthCheckResult.Healthy());
        builder.Services.AddGrpcReflection();
        builder.Services.AddSingleton(service);

        WebApplication application = builder.Build();
        application.MapGrpcService<TService>();
        application.MapGrpcHealthChecksService();
        application.MapGrpcReflectionService();
        try
        {
            await application.StartAsync(cancellationToken).ConfigureAwait(false);
        }
        catch
        {
            await application.DisposeAsync().ConfigureAwait(false);
            throw;
        }

        string address = application.Services.GetRequiredService<IServer>().Features.Get<IServerAddressesFeature>()!.Addresses.First();
        return new ControlHost(application, new IPEndPoint(listen.Address, new Uri(address).Port));
    }

    /// <summary>Stops listening, and ends the calls that go on.</summary>
    public async ValueTask DisposeAsync()
    {
        await application.StopAsync().ConfigureAwait(false);
        await application.DisposeAsync().ConfigureAwait(false);
    }

    private sealed class NoSignals : IHostLifetime
    {
        public Task WaitForStartAsync(CancellationToken cancellationToken) => Task.CompletedTask;

        public Task StopAsync(CancellationToken cancellationToken) => Task.CompletedTask;
    }

    private sealed class GivenLogger(ILogger logger) : ILoggerProvider
    {
        public ILogger CreateLogger(string categoryName) => logger;

        public void Dispose() { }
    }
}
