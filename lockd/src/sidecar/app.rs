//! The app that the leadership is bound to: a leadership lasts for one life of it, and no
//! candidate leads for an app that is dead.

mod process;
mod url;

use std::time::Duration;

use clap::Args as ClapArgs;
use lockd_client::Context;
use tokio_util::sync::CancellationToken;

use self::{
    process::Process,
    url::{AppUrl, Watched},
};
use crate::{
    cli::{exit::Failure, run::duration},
    serve::Lifecycle,
};

/// The flags that say by what the app is known to live.
#[derive(Debug, Clone, ClapArgs)]
pub(super) struct WatchArgs {
    /// The process of the app: leads while that lives, and lets go at once when it dies
    #[arg(long, value_name = "PID", requires = "election", conflicts_with = "watch_url")]
    watch_pid: Option<i32>,

    /// An http:// URL of the app, asked once a second: leads while that answers, with any status, and
    /// lets go at once when it is refused or silent for 3 s
    #[arg(long, value_name = "URL", requires = "election")]
    watch_url: Option<AppUrl>,

    /// How long an app that is watched may take to end after SIGTERM has come here
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "30s")]
    drain: Duration,
}

/// What is known of the app.
#[derive(Debug)]
pub(super) enum App {
    /// Nothing: it is taken to live for as long as the sidecar.
    Unwatched,
    Process(Process),
    Url(Watched),
}

/// A life of the app: cancelled when that ends.
pub(super) type Life = CancellationToken;

impl WatchArgs {
    /// How long the app may take to end. What is not watched can't be waited for.
    pub(super) fn drain(&self) -> Duration {
        match (self.watch_pid, &self.watch_url) {
            (None, None) => Duration::ZERO,
            (Some(_), _) | (_, Some(_)) => self.drain,
        }
    }
}

impl App {
    /// Watches the app from now on.
    pub(super) fn watched(args: &WatchArgs, life: &Lifecycle) -> Result<Self, Failure> {
        Ok(match (args.watch_pid, args.watch_url.clone()) {
            (Some(pid), _) => Self::Process(Process::find(pid)?),
            (None, Some(url)) => Self::Url(url.watch(&life.tasks, life.end.clone())),
            (None, None) => Self::Unwatched,
        })
    }

    /// Waits until it lives; `None` when it never will again. Cancel safe.
    pub(super) async fn lives(&self) -> Option<Life> {
        match self {
            Self::Unwatched => Some(Life::new()),
            Self::Process(process) => process.life(),
            Self::Url(url) => url.lives().await,
        }
    }

    /// Asks it to end, where that is possible, and kills it when what is left of a leadership
    /// is over.
    pub(super) async fn stop(&self, left: &Context) {
        match self {
            Self::Process(process) => process.stop(left).await,
            // It asks whether it leads.
            Self::Unwatched | Self::Url(_) => {}
        }
    }
}
