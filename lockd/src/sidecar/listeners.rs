//! Where the sidecar listens, and what it answers there.

use std::{fmt, net::SocketAddr, path::PathBuf};

use axum::{Router, serve::Listener};
use clap::Args as ClapArgs;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;

use super::{Sidecar, api, socket::Socket};
use crate::{
    cli::{exit::Failure, serve::listen},
    telemetry::tasks::Tasks,
};

/// The flags that say where.
#[derive(Debug, ClapArgs)]
pub(super) struct ListenArgs {
    /// Where to serve HTTP; port 0 picks a free one
    #[arg(long, value_name = "ADDR", env = "LOCKD_SIDECAR_LISTEN")]
    #[arg(default_value = "127.0.0.1:7422")]
    listen: SocketAddr,

    /// A Unix socket to serve the same on; a file is made there, and removed in the end
    #[arg(long, value_name = "PATH", env = "LOCKD_SIDECAR_SOCKET")]
    socket: Option<PathBuf>,

    /// Where to serve probes and metrics as well, such as 0.0.0.0:7423 for the kubelet
    #[arg(long, value_name = "ADDR", env = "LOCKD_SIDECAR_PROBE_LISTEN")]
    probe_listen: Option<SocketAddr>,

    /// Answer also as another program did that this one takes the place of
    #[arg(long, value_name = "WHAT", requires = "election")]
    compat: Option<Compat>,

    /// Where to do so
    #[arg(long, value_name = "ADDR", requires = "compat", default_value = "127.0.0.1:4040")]
    compat_listen: SocketAddr,
}

/// Whose answers it gives as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Compat {
    /// Kubernetes' contrib/election: `{"name": "the leader"}`
    LeaderElector,
}

/// What is listened to already, and not served yet.
#[derive(Debug)]
pub(super) struct Listeners {
    http: TcpListener,
    probes: Option<TcpListener>,
    compat: Option<TcpListener>,
    socket: Option<(UnixListener, Socket)>,
}

impl Listeners {
    pub(super) async fn bind(args: &ListenArgs) -> Result<Self, Failure> {
        let compat = args.compat.map(|Compat::LeaderElector| args.compat_listen);
        Ok(Self {
            http: listen("--listen", args.listen).await?,
            probes: listen_if("--probe-listen", args.probe_listen).await?,
            compat: listen_if("--compat-listen", compat).await?,
            socket: args.socket.as_deref().map(Socket::bind).transpose()?,
        })
    }

    /// Serves on all of them until the end, and says where.
    pub(super) fn serve(
        self,
        sidecar: &Sidecar,
        metrics: PrometheusHandle,
        tasks: &Tasks,
    ) -> Result<String, Failure> {
        let probes = api::probes(metrics);
        let app = api::routes().merge(probes.clone());
        let mut said = "lockd sidecar listening".to_owned();
        for (what, listener, routes) in [
            ("http", Some(self.http), app.clone()),
            ("probes", self.probes, probes),
            ("compat", self.compat, api::leader_elector()),
        ] {
            let Some(listener) = listener else { continue };
            let at = listener.local_addr().map_err(Failure::internal)?;
            said.push_str(&format!(" {what}={at}"));
            let routes = routes.with_state(sidecar.clone());
            tasks.spawn(what, serve(listener, routes, sidecar.end.clone()));
        }
        if let Some((listener, socket)) = self.socket {
            let served = serve(listener, app.with_state(sidecar.clone()), sidecar.end.clone());
            tasks.spawn("socket", async move {
                served.await;
                drop(socket);
            });
        }
        Ok(said)
    }
}

async fn listen_if(flag: &str, at: Option<SocketAddr>) -> Result<Option<TcpListener>, Failure> {
    match at {
        Some(at) => listen(flag, at).await.map(Some),
        None => Ok(None),
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
