//! Composes log → core → server, serves until it is to stop, then drains.

use std::{future::IntoFuture as _, net::SocketAddr, time::Duration};

use axum::{Router, extract::connect_info::IntoMakeServiceWithConnectInfo};
use lockd_proto::clock::Clock;
use tokio::{net::TcpListener, runtime, sync::oneshot};

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
    let http = serve_http(replica.http, routes, &life)?;
    life.tasks.spawn("health", health::report(well, reporter, life.end.clone()));
    on_ready(grpc_at, http_at);
    let grpc = async { grpc.await.map_err(ServeError::Grpc) };
    let http = async {
        let panicked = |_| Err(std::io::Error::other("its thread has panicked"));
        http.await.unwrap_or_else(panicked).map_err(ServeError::Http)
    };
    let served = tokio::select! {
        // A log that has failed leaves nothing to be drained.
        Ok(error) = failure => Err(ServeError::Log(error)),
        served = async { tokio::try_join!(grpc, http) } => served.map(drop),
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

/// Serves HTTP on a thread and a runtime of its own, so that health is answered though all other threads
/// hang. The receiver hears how it ended.
fn serve_http(
    listener: TcpListener,
    routes: IntoMakeServiceWithConnectInfo<Router, SocketAddr>,
    life: &Lifecycle,
) -> Result<oneshot::Receiver<std::io::Result<()>>, ServeError> {
    let listener = listener.into_std().map_err(ServeError::Http)?;
    let (stop, end) = (life.stop.clone(), life.end.clone());
    let serve = move || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async move {
            let listener = TcpListener::from_std(listener)?;
            let http = axum::serve(listener, routes).with_graceful_shutdown(stop.cancelled_owned());
            end.run_until_cancelled(http.into_future()).await.unwrap_or(Ok(()))
        })
    };
    let (ended, end_of_http) = oneshot::channel();
    let thread = std::thread::Builder::new().name("health".to_owned());
    // The replica may have ended by itself.
    thread.spawn(move || drop(ended.send(serve()))).map_err(ServeError::Http)?;
    Ok(end_of_http)
}

/// Waits for the end of the drain: its time is over, or a second signal cuts it short.
async fn overrun(life: &Lifecycle, drain: Duration) {
    life.stop.cancelled().await;
    life.end.run_until_cancelled(tokio::time::sleep(drain)).await;
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpStream,
    };

    use axum::routing::get;

    use super::*;

    #[tokio::test]
    async fn health_is_answered_while_the_runtime_of_all_else_hangs() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (at, life) = (listener.local_addr().unwrap(), Lifecycle::default());
        let routes = Router::new().route("/livez", get(async || "it hangs"));
        let routes = routes.into_make_service_with_connect_info();
        let ended = serve_http(listener, routes, &life).unwrap();
        // This runtime has one thread, which hangs from here to the answer.
        let mut stream = TcpStream::connect(at).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let request = b"GET /livez HTTP/1.1\r\nHost: lockd\r\nConnection: close\r\n\r\n";
        stream.write_all(request).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with("it hangs"), "{answer}");
        life.stop.cancel();
        ended.await.unwrap().unwrap();
    }
}
