using System.Net;
using Grpc.Health.V1;
using Grpc.Reflection;
using Grpc.Reflection.V1Alpha;
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
using Skein.ParameterServer.Control;

namespace Skein.Hosting.ParameterServers;

/// <summary>
/// Serves gRPC to the members of a job, with the standard health and reflection services: HTTP/2 without TLS on
/// connections that have proved to know the job's secret. Reads no configuration and handles no signals.
/// </summary>
public sealed class ControlHost : IAsyncDisposable
{
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

    /// <summary>Starts to serve a member's service.</summary>
    /// <param name="listen">Where; port 0 lets the system choose.</param>
    /// <param name="secret">The job's secret.</param>
    /// <param name="service">What is served.</param>
    /// <param name="logger">Where to log; null for nowhere.</param>
    /// <param name="cancellationToken">Gives up.</param>
    /// <exception cref="Skein.Collectives.RendezvousException">The address cannot be listened at.</exception>
    public static async Task<ControlHost> StartAsync(
        IPEndPoint listen, JobSecret secret, ControlService service, ILogger? logger = null, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(listen);
        ArgumentNullException.ThrowIfNull(service);
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
            grpc.MaxReceiveMessageSize = ControlService.MaximumMessageLength;
            grpc.MaxSendMessageSize = ControlService.MaximumMessageLength;
        });
        builder.Services.AddGrpcHealthChecks().AddCheck("answers", () => HealthCheckResult.Healthy());

        WebApplication application = builder.Build();
        application.MapGrpcService(service.Definition);
        application.MapGrpcHealthChecksService();
        application.MapGrpcService(ServerReflection.BindService(
            new ReflectionServiceImpl(service.Descriptor, Health.Descriptor, ServerReflection.Descriptor)));
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
