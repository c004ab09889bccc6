//! `lockd sidecar`: the flags of the second daemon.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Args as ClapArgs;
use lockd_proto::LockName;
use tokio::net::TcpListener;

use super::{
    Exit, Globals,
    exit::CommandError,
    output,
    run::grace_of,
    serve::{listen, stop_on_signals},
};
use crate::{
    duration,
    sidecar::{self, AppUrl, AppWatch, Candidacy, Label, Listeners, SidecarError, SidecarSettings},
    telemetry::{
        logs::{LogFormat, Logs},
        tasks::Lifecycle,
    },
};

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
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, default_value = "15s")]
    ttl: Duration,

    #[command(flatten)]
    term: TermArgs,

    /// Which log lines to write
    #[arg(long, value_name = "FILTER", env = "LOCKD_LOG", default_value = "info")]
    log: String,

    /// How to write them
    #[arg(long, value_name = "FORMAT", env = "LOCKD_LOG_FORMAT", default_value = "text")]
    log_format: LogFormat,
}

/// The flags that say where to listen.
#[derive(Debug, ClapArgs)]
struct ListenArgs {
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

/// How a leadership is announced, and what it is bound to.
#[derive(Debug, ClapArgs)]
struct TermArgs {
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

    /// The process of the app: leads while that lives, and lets go at once when it dies
    #[arg(long, value_name = "PID", requires = "election", conflicts_with = "watch_url")]
    watch_pid: Option<i32>,

    /// An http:// URL of the app, asked once a second: leads while that answers, with any status, and
    /// lets go at once when it is refused or silent for 3 s
    #[arg(long, value_name = "URL", requires = "election")]
    watch_url: Option<AppUrl>,

    /// How long an app that is watched may take to end after SIGTERM has come here
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, default_value = "30s")]
    drain: Duration,
}

pub(super) async fn run(args: Args, globals: &Globals) -> Result<Exit, CommandError> {
    Logs::start(&args.log, args.log_format)?;
    if let Some(Err(error)) = args.election.as_deref().map(LockName::parse) {
        return Err(CommandError::new(Exit::Usage, format!("--election: {error}")));
    }
    let listeners = listeners(args.listen).await?;
    let life = Lifecycle::default();
    stop_on_signals(&life)?;
    let term = args.term;
    let settings = SidecarSettings {
        daemons: globals.target.addr.clone(),
        namespace: globals.target.namespace.clone(),
        identity: args.identity.unwrap_or_else(default_identity),
        candidacy: args.election.map(|election| candidacy(election, args.ttl, term)),
    };
    let mut printed = Ok(());
    let on_ready = |listening: &str| printed = output::print(listening);
    sidecar::run(settings, listeners, life, on_ready).await?;
    printed.map(|()| Exit::Success)
}

async fn listeners(args: ListenArgs) -> Result<Listeners, CommandError> {
    let compat = args.compat.map(|Compat::LeaderElector| args.compat_listen);
    Ok(Listeners {
        http: listen("--listen", args.listen).await?,
        probes: listen_if("--probe-listen", args.probe_listen).await?,
        compat: listen_if("--compat-listen", compat).await?,
        socket: args.socket,
    })
}

async fn listen_if(
    flag: &str,
    at: Option<SocketAddr>,
) -> Result<Option<TcpListener>, CommandError> {
    match at {
        Some(at) => listen(flag, at).await.map(Some),
        None => Ok(None),
    }
}

fn candidacy(election: String, ttl: Duration, args: TermArgs) -> Candidacy {
    let pid = args.watch_pid.map(AppWatch::Process);
    let watch = pid.or(args.watch_url.map(AppWatch::Url));
    Candidacy {
        election,
        ttl,
        grace: grace_of(ttl),
        on_elected: args.on_elected,
        on_lost: args.on_lost,
        state_file: args.state_file,
        pod_label: args.pod_label,
        // The end of an app that is not watched can't be waited for.
        drain: watch.as_ref().map_or(Duration::ZERO, |_| args.drain),
        watch,
    }
}

/// How a candidate is known to others: in a pod by what the downward API has put there.
fn default_identity() -> String {
    let host = || rustix::system::uname().nodename().to_string_lossy().into_owned();
    std::env::var("POD_NAME").ok().filter(|name| !name.is_empty()).unwrap_or_else(host)
}

impl From<SidecarError> for CommandError {
    fn from(error: SidecarError) -> Self {
        let exit = match &error {
            SidecarError::Metrics(_) | SidecarError::Address(_) => Exit::Internal,
            SidecarError::Process { .. }
            | SidecarError::UnknownPod
            | SidecarError::NoApiServer(_)
            | SidecarError::Socket { .. } => Exit::Config,
        };
        Self::new(exit, error.to_string())
    }
}
