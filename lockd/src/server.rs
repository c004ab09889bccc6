//! `lockd.v1` over gRPC: translates, decides nothing.

mod admin;
pub(crate) mod debug;
mod explain;
pub(crate) mod health;
mod lock;
mod measure;
mod secret;
mod session;
mod status;
mod stream;
mod translate;
mod unread;
mod watch;

use std::time::Duration;

use futures::{Stream, StreamExt as _};
use lockd_client::grpc::ContextLayer;
use lockd_proto::v1::{
    admin_service_server::AdminServiceServer, lock_service_server::LockServiceServer,
    session_service_server::SessionServiceServer,
};
use tokio::net::{TcpListener, TcpStream};
use tonic::transport::{Server, server::TcpIncoming};
use tonic_health::pb::health_server::{Health, HealthServer};

use measure::Measure;
use unread::UnreadBytes;

use crate::{core::Handle, telemetry::tasks::Tasks};

/// HTTP/2 pings to a client that is silent, so that a dead link is noticed.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// How long a client may take to answer a ping.
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection that can't be accepted is left alone.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// The most calls that one connection may have open: room for many waiters, an end to floods.
const MAX_STREAMS: u32 = 4096;

/// The largest message that a client may send, in bytes. Room for every legal request, of which
/// a resume with 10,000 open requests is the largest.
pub(crate) const MAX_MESSAGE_BYTES: usize = 256 * 1024;

/// What the services share.
#[derive(Debug, Clone)]
pub(super) struct Api {
    core: Handle,
    tasks: Tasks,
    store: &'static str,
}

/// What is served.
#[derive(Debug)]
pub(crate) struct Served {
    /// The way to the core.
    pub core: Handle,
    /// The tasks of the process.
    pub tasks: Tasks,
    /// What the log is: "embedded", "memory" or "etcd".
    pub store: &'static str,
}

/// Why gRPC could not be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServerError {
    /// A listener or a connection failed.
    #[error("the gRPC server failed")]
    Transport(#[source] tonic::transport::Error),
    /// The descriptors that were compiled in can't be read.
    #[error("server reflection can't be set up")]
    Reflection(#[source] tonic_reflection::server::Error),
}

/// Serves until `stop` resolves and every call has ended.
///
/// # Errors
/// [`ServerError`].
pub(crate) async fn serve<H: Health>(
    served: Served,
    health: HealthServer<H>,
    listener: TcpListener,
    stop: impl Future<Output = ()>,
) -> Result<(), ServerError> {
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(lockd_proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(ServerError::Reflection)?;
    let Served { core, tasks, store } = served;
    let api = Api { core, tasks, store };
    let limit = MAX_MESSAGE_BYTES;
    Server::builder()
        .layer(Measure)
        // Deadlines of callers are kept, and answered as such.
        .layer(ContextLayer::new())
        .layer(UnreadBytes::default())
        .http2_keepalive_interval(Some(PING_INTERVAL))
        .http2_keepalive_timeout(Some(PING_TIMEOUT))
        .max_concurrent_streams(MAX_STREAMS)
        .add_service(SessionServiceServer::new(api.clone()).max_decoding_message_size(limit))
        .add_service(LockServiceServer::new(api.clone()).max_decoding_message_size(limit))
        .add_service(AdminServiceServer::new(api).max_decoding_message_size(limit))
        .add_service(reflection)
        .add_service(health)
        .serve_with_incoming_shutdown(incoming(listener), stop)
        .await
        .map_err(ServerError::Transport)
}

/// Connections as they come. One that can't be accepted, for want of file descriptors above all,
/// is still there the moment after: tonic would ask for it without a pause.
fn incoming(listener: TcpListener) -> impl Stream<Item = std::io::Result<TcpStream>> {
    TcpIncoming::from(listener).with_nodelay(Some(true)).then(async |accepted| {
        if let Err(error) = &accepted {
            tracing::warn!(%error, "a connection can't be accepted");
            tokio::time::sleep(ACCEPT_RETRY).await;
        }
        accepted
    })
}
