//! The second daemon: locks and leader election for an app in any language, over HTTP on loopback.
//!
//! ```text
//! app ── JSON over HTTP ──► sidecar ── one session ──► lockd
//! ```
//!
//! What it says of its own leadership comes from its own clock and lease, never from an answer that
//! may be old: when the lease can't be proved any more, it no longer reports that it leads.

mod api;
mod app;
mod candidate;
mod elections;
mod forward;
mod hooks;
mod label;
mod listeners;
mod locks;
mod metrics;
mod socket;
mod state_file;

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use lockd_client::{Client, ClientBuilder};
use lockd_proto::retry::{Policy, Retry};
use metrics_exporter_prometheus::BuildError;
use tokio::sync::{OnceCell, Semaphore};
use tokio_util::sync::CancellationToken;

use self::{
    app::App,
    candidate::Candidate,
    elections::{ElectionObserver, OwnElection},
    forward::Forward,
    hooks::Hooks,
    label::PodLabel,
    locks::HeldLocks,
    state_file::StateFile,
};
pub(crate) use self::{
    app::{AppUrl, AppWatch},
    label::Label,
    listeners::Listeners,
};
use crate::telemetry::tasks::Lifecycle;

/// How many streams of events there may be at a time.
const MAX_STREAMS: usize = 64;

/// Which daemons a sidecar asks, as whom, and in which election it campaigns.
#[derive(Debug)]
pub(crate) struct SidecarSettings {
    /// The addresses of the daemons, separated by commas.
    pub(crate) daemons: String,
    pub(crate) namespace: String,
    /// What others see of this candidate.
    pub(crate) identity: String,
    pub(crate) candidacy: Option<Candidacy>,
}

/// An election to campaign in: how a leadership is announced, and what it is bound to.
#[derive(Debug)]
pub(crate) struct Candidacy {
    pub(crate) election: String,
    pub(crate) ttl: Duration,
    /// How long before its lease ends a leadership is given up.
    pub(crate) grace: Duration,
    /// What to run by `sh -c` when it is elected.
    pub(crate) on_elected: Option<String>,
    /// What to run by `sh -c` when it leads no longer.
    pub(crate) on_lost: Option<String>,
    pub(crate) state_file: Option<PathBuf>,
    pub(crate) pod_label: Option<Label>,
    pub(crate) watch: Option<AppWatch>,
    /// Time limit for the app to end when the sidecar stops.
    pub(crate) drain: Duration,
}

/// Why a sidecar could not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SidecarError {
    /// This process has a recorder already.
    #[error(transparent)]
    Metrics(BuildError),
    /// A socket has no address.
    #[error("a listening socket has no address: {0}")]
    Address(#[source] io::Error),
    /// The app's process can't be watched.
    #[error("--watch-pid {pid}: {source}; in a pod, set shareProcessNamespace")]
    Process {
        /// Its id.
        pid: i32,
        source: io::Error,
    },
    /// The pod to label has no name here.
    #[error("--pod-label needs POD_NAME and POD_NAMESPACE, from the downward API")]
    UnknownPod,
    /// Neither the pod nor a kubeconfig knows an API server.
    #[error("--pod-label: no API server is known: {0}")]
    NoApiServer(#[source] kube::Error),
    /// The Unix socket can't be bound.
    #[error("can't listen on --socket {path}: {source}")]
    Socket {
        /// Where.
        path: String,
        source: io::Error,
    },
}

/// What the handlers share.
#[derive(Debug, Clone)]
struct Sidecar {
    /// Set when a daemon has answered for the first time.
    client: Arc<OnceCell<Client>>,
    own: Option<OwnElection>,
    locks: HeldLocks,
    /// The way on for gRPC calls.
    forward: Forward,
    /// Room for streams of events.
    streams: Arc<Semaphore>,
    /// Cancelled when it has stopped.
    end: CancellationToken,
}

/// Serves until it is to stop, then releases what is held. `on_ready` is called with one line that
/// lists the addresses.
///
/// # Errors
/// [`SidecarError`] when something that the settings name can't be used.
pub(crate) async fn run(
    settings: SidecarSettings,
    listeners: Listeners,
    life: Lifecycle,
    on_ready: impl FnOnce(&str),
) -> Result<(), SidecarError> {
    let metrics = metrics::install().map_err(SidecarError::Metrics)?;
    let campaign = match settings.candidacy {
        Some(candidacy) => Some(Campaign::prepare(candidacy, &settings.identity, &life).await?),
        None => None,
    };
    let sidecar = Sidecar {
        client: Arc::new(OnceCell::new()),
        own: campaign.as_ref().map(|campaign| campaign.own.clone()),
        locks: HeldLocks::default(),
        forward: Forward::new(&settings.daemons),
        streams: Arc::new(Semaphore::new(MAX_STREAMS)),
        end: life.end.clone(),
    };
    on_ready(&listeners.serve(&sidecar, metrics, &life.tasks)?);
    let daemons = Client::builder().addrs(&settings.daemons).namespace(&settings.namespace);
    let connected = connect(daemons.name(&settings.identity), &life.stop).await;
    if let Some(client) = connected {
        let client = sidecar.client.get_or_init(async || client).await;
        if let Some(campaign) = campaign {
            campaign.run(client, &life).await;
        }
    }
    life.stop.cancelled().await;
    sidecar.locks.release_all().await;
    if let Some(client) = sidecar.client.get() {
        client.shutdown().await;
    }
    life.end.cancel();
    life.tasks.drained().await;
    Ok(())
}

/// A candidacy, and what it is bound to, looked up before anything is served.
#[derive(Debug)]
struct Campaign {
    candidacy: Candidacy,
    own: OwnElection,
    observer: ElectionObserver,
    app: App,
    label: Option<PodLabel>,
}

impl Campaign {
    async fn prepare(
        mut candidacy: Candidacy,
        identity: &str,
        life: &Lifecycle,
    ) -> Result<Self, SidecarError> {
        let app = App::watched(candidacy.watch.take(), life)?;
        let label = match candidacy.pod_label.take() {
            Some(label) => Some(label.keep(&life.tasks, life.end.clone()).await?),
            None => None,
        };
        let (own, observer) = OwnElection::new(candidacy.election.clone(), identity.to_owned());
        Ok(Self { candidacy, own, observer, app, label })
    }

    /// Takes part in the election until the sidecar is to stop.
    async fn run(self, client: &Client, life: &Lifecycle) {
        let Self { candidacy, own, observer, app, label } = self;
        let election = client.election(&own.election).ttl(candidacy.ttl);
        life.tasks.spawn("observer", observer.run(election.observe(), life.end.clone()));
        let candidate = Candidate {
            state_file: candidacy.state_file.clone().map(|path| StateFile::new(path, &own)),
            hooks: Hooks::new(&candidacy, &own),
            drain: candidacy.drain,
            grace: candidacy.grace,
            ttl: candidacy.ttl,
            stop: life.stop.clone(),
            end: life.end.clone(),
            election,
            own,
            app,
            label,
        };
        candidate.run().await;
    }
}

impl Sidecar {
    /// The election that it campaigns in, if it has this name.
    fn own_election(&self, name: &str) -> Option<&OwnElection> {
        self.own.as_ref().filter(|own| own.election == name)
    }
}

/// Tries until a daemon has answered; `None` when it is to stop. A pod starts also when lockd is not
/// there yet.
async fn connect(daemons: ClientBuilder, stop: &CancellationToken) -> Option<Client> {
    let mut retry = Retry::new(Policy::default());
    loop {
        match stop.run_until_cancelled(daemons.clone().connect()).await? {
            Ok(client) => return Some(client),
            Err(error) => tracing::warn!(%error, "no daemon has answered yet"),
        }
        let pause = retry.next_delay().unwrap_or_default();
        stop.run_until_cancelled(tokio::time::sleep(pause)).await?;
    }
}
