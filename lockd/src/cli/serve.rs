//! `lockd serve`: the daemon.

use std::net::SocketAddr;

use clap::Args as ClapArgs;
use lockd_client::Propagation;
use lockd_proto::clock::Clock;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

use super::{Exit, exit::CommandError, output};
use crate::{
    config::{ConfigError, Flags, Settings, StoreKind},
    log::{
        Log, LogError,
        etcd::EtcdLog,
        journal::{Journal, Options},
    },
    serve::{self, ServeError, ServeOptions},
    telemetry::{
        logs::{self, Logs},
        metrics::Exporter,
        otlp::Otlp,
        tasks::Lifecycle,
    },
};

/// The flags of `lockd serve`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Each value comes from its flag, else from LOCKD_<NAME> in the environment, else from the file
given by --config, else from its default. `lockd config` shows which.

Examples:
  lockd serve
  lockd serve --data-dir /var/lib/lockd --listen 0.0.0.0:7420
  lockd serve --store etcd --etcd-endpoints http://10.0.0.1:2379,http://10.0.0.2:2379")]
pub(super) struct Args {
    #[command(flatten)]
    flags: Flags,
}

pub(super) async fn run(args: &Args) -> Result<Exit, CommandError> {
    check_propagation()?;
    let settings = Settings::load(&args.flags)?;
    let logs = Logs::start(&settings.log, settings.log_format)?;
    let life = Lifecycle::default();
    let ready = |grpc: SocketAddr, http: SocketAddr| {
        output::print(&format!("lockd listening grpc={grpc} http={http}"))
    };
    match settings.store {
        StoreKind::Embedded => {
            let accept_restored = settings.accept_restored.clone();
            let options = Options { accept_restored, ..Options::new(Clock::system()) };
            let log = Journal::open(&settings.data_dir, options)?;
            serve(Daemon { settings, logs, life }, log, ready).await
        }
        StoreKind::Etcd => {
            let log = EtcdLog::new(settings.etcd()?, &life.tasks, &life.end, Clock::system())?;
            serve(Daemon { settings, logs, life }, log, ready).await
        }
    }
}

/// What a daemon is started with.
pub(super) struct Daemon {
    pub(super) settings: Settings,
    pub(super) logs: Logs,
    pub(super) life: Lifecycle,
}

/// Serves until a signal arrives.
pub(super) async fn serve(
    Daemon { settings, logs, life }: Daemon,
    log: impl Log,
    ready: impl FnOnce(SocketAddr, SocketAddr) -> Result<(), CommandError>,
) -> Result<Exit, CommandError> {
    let otlp = settings.otlp_endpoint.as_ref().map(|url| Otlp::to(url, &settings.name));
    let otlp = otlp.transpose().map_err(|error| {
        CommandError::new(Exit::Config, format!("--otlp-endpoint: {error}; give http://HOST:4317"))
    })?;
    let replica = ServeOptions {
        name: settings.name.clone(),
        grpc: listen("--listen", settings.listen).await?,
        http: listen("--http-listen", settings.http_listen).await?,
        drain: settings.drain,
        limits: settings.limits(),
        metrics: Exporter::install(settings.lock_names()).map_err(CommandError::internal)?,
        logs,
        traces: otlp.as_ref().map(Otlp::traces).unwrap_or_default(),
    };
    stop_on_signals(&life)?;
    let mut printed = Ok(());
    let served = serve::run(replica, log, life, |grpc, http| printed = ready(grpc, http)).await;
    if let Some(otlp) = otlp {
        otlp.flush().await;
    }
    match served {
        Ok(()) => printed.map(|()| Exit::Success),
        Err(ServeError::Log(error)) => Err(error.into()),
        Err(error) => Err(CommandError::internal(anyhow::Error::from(error))),
    }
}

pub(super) async fn listen(flag: &str, at: SocketAddr) -> Result<TcpListener, CommandError> {
    TcpListener::bind(at).await.map_err(|error| {
        let text = format!("can't listen on {at}: {error}; choose another address with {flag}");
        CommandError::new(Exit::Config, text)
    })
}

/// The first signal begins to drain, the second one ends it.
pub(super) fn stop_on_signals(life: &Lifecycle) -> Result<(), CommandError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(CommandError::internal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(CommandError::internal)?;
    let (stop, end) = (life.stop.clone(), life.end.clone());
    let watch = async move {
        for token in [&stop, &end] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                () = end.cancelled() => return,
            }
            tracing::info!("signalled to stop");
            token.cancel();
        }
    };
    life.tasks.spawn("signals", watch);
    Ok(())
}

/// The daemon's own requests have contexts too; a mistake would otherwise only be logged.
pub(super) fn check_propagation() -> Result<(), CommandError> {
    Propagation::from_env()
        .map(drop)
        .map_err(|error| CommandError::new(Exit::Config, error.to_string()))
}

impl From<logs::LogSetupError> for CommandError {
    fn from(error: logs::LogSetupError) -> Self {
        Self::new(Exit::Config, error.to_string())
    }
}

impl From<ConfigError> for CommandError {
    fn from(error: ConfigError) -> Self {
        Self::new(Exit::Config, error.to_string())
    }
}

impl From<LogError> for CommandError {
    fn from(error: LogError) -> Self {
        Self::new(Exit::Config, error.to_string())
    }
}
