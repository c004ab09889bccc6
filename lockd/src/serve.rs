//! Composes store → view → batcher → gRPC, serves until told to stop, then drains.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use lockd_proto::clock::Clock;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    batcher::Batcher,
    debug, detector,
    engine::{Attached, Engine, WorkingParts},
    grpc, health,
    logs::Logs,
    metrics::Exporter,
    reaper,
    requests::Limits,
    sessions::Sessions,
    store::Store,
    tasks::Tasks,
    traces::Traces,
    view::View,
};

/// Where a replica listens, as what, and how it stops.
#[derive(Debug)]
pub struct Replica {
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
pub enum ServeError {
    /// The gRPC server failed.
    #[error("the gRPC server failed")]
    Grpc(#[source] tonic::transport::Error),
    /// The HTTP server failed.
    #[error("the HTTP server failed")]
    Http(#[source] std::io::Error),
    /// A socket has no address.
    #[error("a listening socket has no address")]
    Address(#[source] std::io::Error),
    /// The descriptors that were compiled in can't be read.
    #[error("server reflection can't be set up")]
    Reflection(#[source] tonic_reflection::server::Error),
}

/// How a replica comes to its end.
#[derive(Debug, Clone, Default)]
pub struct Lifecycle {
    /// Cancelled, by whoever runs the replica, to have it shut down.
    pub stop: CancellationToken,
    /// Cancelled when the drain is over: by the replica in its time, or earlier by whoever runs it.
    pub end: CancellationToken,
    /// Everything that is running, the store's own tasks included.
    pub tasks: Tasks,
}

/// Serves from a store until told to stop, then tells every stream to go elsewhere and gives
/// what is in flight the time to finish. `on_ready` hears the addresses of gRPC and HTTP.
///
/// # Errors
/// [`ServeError`] when a server fails.
pub async fn run(
    replica: Replica,
    store: Arc<dyn Store>,
    life: Lifecycle,
    on_ready: impl FnOnce(SocketAddr, SocketAddr),
) -> Result<(), ServeError> {
    let grpc_at = replica.grpc.local_addr().map_err(ServeError::Address)?;
    let http_at = replica.http.local_addr().map_err(ServeError::Address)?;
    let Replica { name, limits, traces, .. } = &replica;
    let (name, traces, clock) = (name.clone(), traces.clone(), Clock::system());
    let parts = Parts { name, limits: *limits, clock, traces };
    let engine = compose(parts, store, &life);
    let (reporter, health) = tonic_health::server::health_reporter();
    let stopped = || life.stop.clone().cancelled_owned();
    let grpc = grpc::serve(engine.clone(), health, replica.grpc, stopped());
    let routes = health::routes(engine.clone(), replica.metrics.clone())
        .merge(debug::routes(life.tasks.clone(), replica.logs))
        .into_make_service_with_connect_info::<SocketAddr>();
    let http = axum::serve(replica.http, routes).with_graceful_shutdown(stopped());
    life.tasks.spawn("health", health::report(engine, reporter, replica.metrics));
    on_ready(grpc_at, http_at);
    let served = tokio::select! {
        served = async { tokio::try_join!(grpc, async { http.await.map_err(ServeError::Http) }) } => {
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

/// What a replica is made of beside its store.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) name: String,
    pub(crate) limits: Limits,
    pub(crate) clock: Clock,
    pub(crate) traces: Traces,
}

/// The engine of a replica, with everything that runs beside its requests.
pub(crate) fn compose(parts: Parts, store: Arc<dyn Store>, life: &Lifecycle) -> Engine {
    let Parts { name, limits, clock, traces } = parts;
    let view = Arc::new(View::new(clock.clone()).with_traces(traces.clone()));
    let (batcher, batches) = Batcher::new(store.clone(), life.end.clone());
    life.tasks.spawn("batcher", batches);
    let (feed, fed, end) = (store.watch(), view.clone(), life.end.clone());
    let watch = async move { end.run_until_cancelled(fed.run(feed)).await };
    life.tasks.spawn("view", watch);
    let sessions = Sessions::new(
        store.clone(),
        batcher.clone(),
        view.clone(),
        name.as_str().into(),
        limits.sessions,
    );
    let engine = Engine::from(WorkingParts {
        store,
        batcher,
        view,
        sessions,
        started: clock.now(),
        clock,
        tasks: life.tasks.clone(),
        drain: life.stop.clone(),
        end: life.end.clone(),
        attached: Attached::default(),
        limits,
        traces,
    });
    life.tasks.spawn("reaper", reaper::run(engine.clone()));
    life.tasks.spawn("deadlock detector", detector::run(engine.clone()));
    engine
}
