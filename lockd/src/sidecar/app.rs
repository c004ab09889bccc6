//! The app that the leadership is bound to: a leadership lasts for one life of it, and no
//! candidate leads for an app that is dead.

mod process;
mod url;

use lockd_client::Context;
use tokio_util::sync::CancellationToken;

pub(crate) use self::url::AppUrl;
use self::{process::Process, url::WatchedUrl};
use super::SidecarError;
use crate::telemetry::tasks::Lifecycle;

/// By what the app is known to live.
#[derive(Debug)]
pub(crate) enum AppWatch {
    /// The process with this id.
    Process(i32),
    /// Answers to requests.
    Url(AppUrl),
}

/// What is known of the app.
#[derive(Debug)]
pub(super) enum App {
    /// Nothing: it is taken to live for as long as the sidecar.
    Unwatched,
    Process(Process),
    Url(WatchedUrl),
}

/// A life of the app: cancelled when that ends.
pub(super) type AppLife = CancellationToken;

impl App {
    /// Watches the app from now on.
    pub(super) fn watched(watch: Option<AppWatch>, life: &Lifecycle) -> Result<Self, SidecarError> {
        Ok(match watch {
            Some(AppWatch::Process(pid)) => Self::Process(Process::find(pid)?),
            Some(AppWatch::Url(url)) => Self::Url(url.watch(&life.tasks, life.end.clone())),
            None => Self::Unwatched,
        })
    }

    /// Waits until it lives; `None` when it never will again. Cancel safe.
    pub(super) async fn lives(&self) -> Option<AppLife> {
        match self {
            Self::Unwatched => Some(AppLife::new()),
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
