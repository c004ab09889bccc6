//! Composes log → core → server, serves until it is to stop, then drains.

use std::{net::SocketAddr, time::Duration};

use lockd_proto::clock::Clock;
use tokio::{net::TcpListener, sync::oneshot};

use crate::{
    core::{Core, Limits, Parts},
    log::{Log, LogError},
    server::{
        self, Served, ServerError, debug,
        health::{self, Health},
    },
    telemetry::{logs::Logs, metrics::Exporter, tasks::Lifecycle, traces::Traces},
};

/// Where a replica listens, as what, and how it stops.
#[derive(Debug)]
pub(crate) struct ServeOptions {
    /// Its name, shown to clients and operators.
    pub name: String,
    /// Where gRPC is served.
    pub grpc: TcpListener,
    /// Where health is served.
    pub http: TcpListener,
    /// How long what is in flight may take to finish.
    pub drain: Duration,
    /// How much there may be.
    pub limits: Limits,
    /// Where what is counted is gathered.
    pub metrics: Exporter,
    /// What is logged.
    pub logs: Logs,
    /// Who hears of requests that are traced.
    pub traces: Traces,
}

/// Why a replica could not serve.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    /// The log can't be used, or has failed.
    #[error(transparent)]
    Log(LogError),
    /// The gRPC server failed.
    #[error(transparent)]
    Grpc(ServerError),
    /// The HTTP server failed.
    #[error("the HTTP server failed")]
    Http(#[source] std::io::Error),
    /// A socket has no address.
    #[error("a listening socket has no address")]
    Address(#[source] std::io::Error),
}

/// Serves from a log until it is to stop, then has every stream go elsewhere and gives what is in
/// flight the time to finish. `on_ready` hears the addresses of gRPC and HTTP.
///
/// # Errors
/// [`ServeError`] when the log or a server fails.
pub(crate) async fn run<L: Log>(
    replica: ServeOptions,
    log: L,
    life: Lifecycle,
    on_ready: impl FnOnce(SocketAddr, SocketAddr),
) -> Result<(), ServeError> {
    let grpc_at = replica.grpc.local_addr().map_err(ServeError::Address)?;
    let http_at = replica.http.local_addr().map_err(ServeError::Address)?;
    let store = log.profile().name;
    let parts = Parts {
        name: replica.name.as_str().into(),
        limits: replica.limits,
        clock: Clock::system(),
        traces: replica.traces.clone(),
        drain: life.stop.clone(),
        end: life.end.clone(),
    };
    let (core, handle) = Core::new(log, parts);
    let (failed, failure) = oneshot::channel();
    let stop = life.stop.clone();
    life.tasks.spawn_vital("core", async move {
        if let Err(error) = core.run().await {
            tracing::error!(%error, "the log has failed: the daemon ends");
            // Nothing listens any more once the servers have ended.
            drop(failed.send(error));
            stop.cancel();
        }
    });
    let (reporter, health) = tonic_health::server::health_reporter();
    let stopped = || life.stop.clone().cancelled_owned();
    let (tasks, metrics) = (life.tasks.clone(), replica.metrics);
    let served = Served { core: handle.clone(), tasks: tasks.clone(), store };
    let grpc = server::serve(served, health, replica.grpc, stopped());
    let well = Health { core: handle, metrics, tasks: tasks.clone() };
    let routes = health::routes(well.clone())
        .merge(debug::routes(tasks, replica.logs))
        .into_make_service_with_connect_info::<SocketAddr>();
    let http = axum::serve(replica.http, routes).with_graceful_shutdown(stopped());
    life.tasks.spawn("health", health::report(well, reporter, life.end.clone()));
    on_ready(grpc_at, http_at);
    let served = tokio::select! {
        // A log that has failed leaves nothing to be drained.
        Ok(error) = failure => Err(ServeError::Log(error)),
        served = async { tokio::try_join!(async { grpc.await.map_err(ServeError::Grpc) }, async { http.await.map_err(ServeError::Http) }) } => {
            served.map(drop)
        }
        () = overrun(&life, replica.drain) => {
            tracing::warn!(drain = ?replica.drain, "the drain is over: cutting off what is left");
            Ok(())
        }
    };
    life.stop.cancel();
    life.end.cancel();
    life.tasks.drained().await;
    served
}

/// Waits for the end of the drain: its time is over, or a second signal cuts it short.
async fn overrun(life: &Lifecycle, drain: Duration) {
    life.stop.cancelled().await;
    life.end.run_until_cancelled(tokio::time::sleep(drain)).await;
}
