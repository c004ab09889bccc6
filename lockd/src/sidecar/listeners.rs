//! Where the sidecar listens, and what it answers there.

use std::{fmt, path::PathBuf};

use axum::{Router, serve::Listener};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{Sidecar, SidecarError, api, socket::Socket};
use crate::telemetry::tasks::Tasks;

/// What is listened to already, and not served yet.
#[derive(Debug)]
pub(crate) struct Listeners {
    pub(crate) http: TcpListener,
    /// For probes and metrics only.
    pub(crate) probes: Option<TcpListener>,
    /// For what asked Kubernetes' contrib/election before.
    pub(crate) compat: Option<TcpListener>,
    /// Where to make a Unix socket for the same as over HTTP.
    pub(crate) socket: Option<PathBuf>,
}

impl Listeners {
    /// Serves on all of them until the end, and says where.
    pub(super) fn serve(
        self,
        sidecar: &Sidecar,
        metrics: PrometheusHandle,
        tasks: &Tasks,
    ) -> Result<String, SidecarError> {
        let socket = self.socket.as_deref().map(Socket::bind).transpose()?;
        let probes = api::probes(metrics);
        let app = api::routes().merge(probes.clone());
        let mut listening = "lockd sidecar listening".to_owned();
        for (what, listener, routes) in [
            ("http", Some(self.http), app.clone()),
            ("probes", self.probes, probes),
            ("compat", self.compat, api::leader_elector()),
        ] {
            let Some(listener) = listener else { continue };
            let at = listener.local_addr().map_err(SidecarError::Address)?;
            listening.push_str(&format!(" {what}={at}"));
            let routes = routes.with_state(sidecar.clone());
            tasks.spawn(what, serve(listener, routes, sidecar.end.clone()));
        }
        if let Some((listener, socket)) = socket {
            let served = serve(listener, app.with_state(sidecar.clone()), sidecar.end.clone());
            tasks.spawn("socket", async move {
                served.await;
                drop(socket);
            });
        }
        Ok(listening)
    }
}

async fn serve<L>(listener: L, routes: Router, end: CancellationToken)
where
    L: Listener,
    L::Addr: fmt::Debug,
{
    let served = axum::serve(listener, routes).with_graceful_shutdown(end.cancelled_owned());
    if let Err(error) = served.await {
        tracing::error!(%error, "HTTP can't be served any more");
    }
}
