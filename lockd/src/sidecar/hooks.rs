//! The commands that are run when the leadership begins and ends.

use std::{process::Stdio, time::Duration};

use lockd_client::{Context, FencingToken};
use rustix::{
    io::Errno,
    process::{Pid, Signal, kill_process_group},
};
use tokio::process::{Child, Command};

use super::{Candidacy, elections::OwnElection};

/// Time limit for a command that reports a loss.
const LIMIT: Duration = Duration::from_secs(30);

/// What to run, and of which election.
#[derive(Debug)]
pub(super) struct Hooks {
    elected: Option<String>,
    lost: Option<String>,
    election: String,
    identity: String,
}

/// A command that runs. Dropping it ends all of its processes.
#[derive(Debug)]
pub(super) struct HookProcess {
    child: Child,
    group: Option<Pid>,
}

impl Hooks {
    pub(super) fn new(candidacy: &Candidacy, own: &OwnElection) -> Self {
        let (elected, lost) = (candidacy.on_elected.clone(), candidacy.on_lost.clone());
        Self { elected, lost, election: own.election.clone(), identity: own.identity.clone() }
    }

    /// Starts the command for an election. What is returned is not to outlive the leadership.
    pub(super) fn elected(&self, token: FencingToken) -> Option<HookProcess> {
        self.start("--on-elected", self.elected.as_ref()?, token)
    }

    /// Runs the command for the end of a leadership: within what is left of it, or within a limit
    /// when it was lost at once.
    pub(super) async fn lost(&self, token: FencingToken, left: &Context) {
        let Some(command) = &self.lost else { return };
        let Some(mut running) = self.start("--on-lost", command, token) else { return };
        let limit = left.remaining().filter(|left| !left.is_zero()).unwrap_or(LIMIT).min(LIMIT);
        let ended = tokio::time::timeout(limit, running.child.wait()).await;
        if ended.is_ok() {
            // Its id may be that of another group soon.
            running.group = None;
        }
        match ended {
            Ok(Ok(status)) if status.success() => {}
            Ok(Ok(status)) => tracing::warn!(%status, "--on-lost has failed"),
            Ok(Err(error)) => tracing::warn!(%error, "--on-lost can't be waited for"),
            Err(_) => tracing::warn!(?limit, "--on-lost has not ended in time: killing it"),
        }
    }

    fn start(&self, flag: &str, command: &str, token: FencingToken) -> Option<HookProcess> {
        let started = Command::new("sh")
            .args(["-c", command])
            .env("LOCKD_ELECTION", &self.election)
            .env("LOCKD_IDENTITY", &self.identity)
            .env("LOCKD_FENCING_TOKEN", token.to_string())
            .stdin(Stdio::null())
            .process_group(0)
            .spawn();
        match started {
            Ok(child) => {
                let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
                Some(HookProcess { child, group })
            }
            Err(error) => {
                tracing::error!(%error, flag, "can't be run");
                None
            }
        }
    }
}

impl Drop for HookProcess {
    fn drop(&mut self) {
        // Its group may be there when the command itself has ended.
        let Some(group) = self.group else { return };
        match kill_process_group(group, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => tracing::warn!(%error, "what a command has left can't be killed"),
        }
    }
}
