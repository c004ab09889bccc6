//! `lockd sidecar`: locks and leader election for an app in any language, over HTTP on loopback.
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

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::Args as ClapArgs;
use lockd_client::Client;
use lockd_proto::{
    LockName,
    retry::{Policy, Retry},
};
use tokio::sync::{OnceCell, Semaphore};
use tokio_util::sync::CancellationToken;

use self::{
    app::{App, WatchArgs},
    candidate::Candidate,
    elections::{Own, Told},
    forward::Forward,
    hooks::Hooks,
    label::{Label, PodLabel},
    listeners::{ListenArgs, Listeners},
    locks::Locks,
    state_file::StateFile,
};
use super::{
    Exit, Globals, connect::Target, exit::Failure, output, run::duration, serve::stop_on_signals,
};
use crate::{
    serve::Lifecycle,
    telemetry::logs::{LogFormat, Logs},
};

/// How many streams of events there may be at a time.
const STREAMS: usize = 64;

/// The flags of `lockd sidecar`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Runs beside an app, which asks it over HTTP. With --election it campaigns, and leads until it is
stopped, asked to resign, or the app has died.

  GET  /leader  /standby                200 or 503; 503 whenever it can't be proved at the moment
  GET  /v1/elections/NAME               who leads, as JSON
  GET  /v1/elections/NAME/events        the same and then each change, as server-sent events
  POST /v1/elections/NAME:resign        lets the next candidate lead
  POST /v1/locks/NAME:acquire?wait=5s   200 with a token, 409 held, 408 the wait is over
  POST /v1/locks/NAME:ensure?token=N    200 still held, 410 lost
  POST /v1/locks/NAME:release?token=N   200 released, 410 lost before
  GET  /livez  /readyz  /startupz  /v1/ready  /metrics
  and lockd's own gRPC API, for apps that speak it

Examples:
  lockd sidecar --election scheduler
  lockd sidecar --election scheduler --on-elected ./start.sh --on-lost ./stop.sh
  lockd sidecar --election scheduler --watch-url http://127.0.0.1:8080/livez
  curl -sf http://127.0.0.1:7422/leader && ./only-on-the-leader.sh")]
pub(super) struct Args {
    #[command(flatten)]
    listen: ListenArgs,

    /// The election to campaign in
    #[arg(long, value_name = "NAME", env = "LOCKD_SIDECAR_ELECTION")]
    election: Option<String>,

    /// What others see of this candidate [default: $POD_NAME, else the host's name]
    #[arg(long, value_name = "TEXT", env = "LOCKD_SIDECAR_IDENTITY")]
    identity: Option<String>,

    /// How long the leadership outlives this process if that dies
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "15s")]
    ttl: Duration,

    #[command(flatten)]
    reign: ReignArgs,

    /// Which log lines to write
    #[arg(long, value_name = "FILTER", env = "LOCKD_LOG", default_value = "info")]
    log: String,

    /// How to write them
    #[arg(long, value_name = "FORMAT", env = "LOCKD_LOG_FORMAT", default_value = "text")]
    log_format: LogFormat,
}

/// How a leadership is announced, and what it is bound to.
#[derive(Debug, Clone, ClapArgs)]
struct ReignArgs {
    /// What to run when it is elected, by `sh -c`
    #[arg(long, value_name = "CMD", requires = "election")]
    on_elected: Option<String>,

    /// What to run when it leads no longer; where there is time, before another candidate leads
    #[arg(long, value_name = "CMD", requires = "election")]
    on_lost: Option<String>,

    /// A file that says whether it leads, as JSON; replaced as a whole
    #[arg(long, value_name = "PATH", requires = "election")]
    state_file: Option<PathBuf>,

    /// A label of its own pod, such as role=leader,standby; off before another candidate leads
    #[arg(long, value_name = "KEY=LEADER,STANDBY", requires = "election")]
    pod_label: Option<Label>,

    #[command(flatten)]
    watch: WatchArgs,
}

/// What the handlers share.
#[derive(Debug, Clone)]
struct Sidecar {
    /// Set when a daemon has answered for the first time.
    client: Arc<OnceCell<Client>>,
    own: Option<Own>,
    locks: Locks,
    /// The way on for gRPC calls.
    forward: Forward,
    /// Room for streams of events.
    streams: Arc<Semaphore>,
    /// Cancelled when it has stopped.
    end: CancellationToken,
}

pub(super) async fn run(args: Args, globals: &Globals) -> Result<Exit, Failure> {
    Logs::start(&args.log, args.log_format)?;
    if let Some(Err(error)) = args.election.as_deref().map(LockName::parse) {
        return Err(Failure::new(Exit::Usage, format!("--election: {error}")));
    }
    let life = Lifecycle::default();
    let metrics = metrics::install().map_err(Failure::internal)?;
    let bound = Bound::new(&args.reign, &life).await?;
    let listeners = Listeners::bind(&args.listen).await?;
    stop_on_signals(&life)?;
    let name = identity(&args);
    let (own, told) =
        args.election.clone().map(|election| Own::new(election, name.clone())).unzip();
    let sidecar = Sidecar {
        client: Arc::new(OnceCell::new()),
        own,
        locks: Locks::default(),
        forward: Forward::new(&globals.target.addr),
        streams: Arc::new(Semaphore::new(STREAMS)),
        end: life.end.clone(),
    };
    output::print(&listeners.serve(&sidecar, metrics, &life.tasks)?)?;
    if connect(&globals.target, &name, &sidecar.client, &life.stop).await
        && let Some(told) = told
    {
        // Until the end it answers who asks whether it leads.
        sidecar.campaign(&args, bound, told, &life).await;
    }
    life.stop.cancelled().await;
    sidecar.locks.release_all().await;
    if let Some(client) = sidecar.client.get() {
        client.shutdown().await;
    }
    life.end.cancel();
    life.tasks.drained().await;
    Ok(Exit::Success)
}

/// What a leadership is bound to, looked up before anything is served.
#[derive(Debug)]
struct Bound {
    app: App,
    label: Option<PodLabel>,
}

impl Bound {
    async fn new(args: &ReignArgs, life: &Lifecycle) -> Result<Self, Failure> {
        let app = App::watched(&args.watch, life)?;
        let label = match args.pod_label.clone() {
            Some(label) => Some(label.keep(&life.tasks, life.end.clone()).await?),
            None => None,
        };
        Ok(Self { app, label })
    }
}

impl Sidecar {
    /// The election that it campaigns in, if it has this name.
    fn own_election(&self, name: &str) -> Option<&Own> {
        self.own.as_ref().filter(|own| own.election == name)
    }

    /// Takes part in its election until it is to stop.
    async fn campaign(&self, args: &Args, bound: Bound, told: Told, life: &Lifecycle) {
        let (Some(own), Some(client)) = (self.own.clone(), self.client.get()) else { return };
        let election = client.election(&own.election).ttl(args.ttl);
        life.tasks.spawn("observer", told.observe(election.observe(), life.end.clone()));
        let candidate = Candidate {
            hooks: Hooks::new(&args.reign, &own),
            state_file: args.reign.state_file.clone().map(|path| StateFile::new(path, &own)),
            drain: args.reign.watch.drain(),
            stop: life.stop.clone(),
            end: life.end.clone(),
            election,
            own,
            app: bound.app,
            label: bound.label,
            ttl: args.ttl,
        };
        candidate.run().await;
    }
}

/// How a candidate is known to others: in a pod by what the downward API has put there.
fn identity(args: &Args) -> String {
    let host = || rustix::system::uname().nodename().to_string_lossy().into_owned();
    let pod = || std::env::var("POD_NAME").ok().filter(|name| !name.is_empty());
    args.identity.clone().or_else(pod).unwrap_or_else(host)
}

/// Tries until a daemon has answered, or until it is to stop; says whether one has. A pod starts
/// also when lockd is not there yet.
async fn connect(
    target: &Target,
    name: &str,
    client: &OnceCell<Client>,
    stop: &CancellationToken,
) -> bool {
    let mut retry = Retry::new(Policy::default());
    loop {
        let Some(connected) = stop.run_until_cancelled(target.connect_as(name.to_owned())).await
        else {
            return false;
        };
        match connected {
            Ok(connected) => return client.set(connected).is_ok(),
            Err(failure) => tracing::warn!(%failure, "no daemon has answered yet"),
        }
        let pause = retry.next_delay().unwrap_or_default();
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return false;
        }
    }
}
