//! `--report`: what happened, as JSON, for programs that start lockd.

use std::{fs, io::Write as _, path::Path, time::Duration};

use lockd_client::Guard;
use lockd_proto::clock::{Clock, Instant};
use serde_json::{Value, json};

use crate::cli::{
    exit::{CommandError, Exit},
    output,
};

/// How it ended.
#[derive(Debug, Clone, Copy)]
pub(super) enum RunOutcome {
    /// The command ran to its end.
    Completed,
    /// The lock was lost while it ran.
    Lost,
    /// The lock was not acquired.
    NotAcquired,
    /// A signal ended the wait.
    Interrupted,
    /// The command could not be started.
    NotStarted,
    /// There was nothing to run.
    Skipped,
}

#[derive(Debug)]
pub(super) struct RunReport {
    clock: Clock,
    lock: String,
    namespace: String,
    began: Instant,
    token: Option<String>,
    acquired: Option<Instant>,
    ending: RunOutcome,
}

impl RunReport {
    pub(super) fn new(lock: &str, namespace: &str) -> Self {
        let clock = Clock::system();
        Self {
            lock: lock.to_owned(),
            namespace: namespace.to_owned(),
            began: clock.now(),
            clock,
            token: None,
            acquired: None,
            ending: RunOutcome::NotAcquired,
        }
    }

    pub(super) fn acquired(&mut self, guard: &Guard) {
        self.token = Some(guard.token().to_string());
        self.acquired = Some(self.clock.now());
    }

    pub(super) fn ended(&mut self, ending: RunOutcome) {
        self.ending = ending;
    }

    fn document(&self, exit: Exit) -> Value {
        let now = self.clock.now();
        let since = |from: Instant, to: Instant| to.saturating_duration_since(from);
        let fields = json!({
            "lock": self.lock,
            "namespace": self.namespace,
            "token": self.token,
            "outcome": match self.ending {
                RunOutcome::Completed => "completed",
                RunOutcome::Lost => "lost",
                RunOutcome::NotAcquired => "not-acquired",
                RunOutcome::Interrupted => "interrupted",
                RunOutcome::NotStarted => "not-started",
                RunOutcome::Skipped => "skipped",
            },
            "exitCode": exit.code(),
            "waitedMs": millis(since(self.began, self.acquired.unwrap_or(now))),
            "heldMs": self.acquired.map(|acquired| millis(since(acquired, now))),
        });
        output::document("LockReport", fields)
    }

    /// Writes it beside the file and moves it there, so that no reader sees half of it.
    pub(super) fn write(&self, file: &Path, exit: Exit) -> Result<(), CommandError> {
        let mut name = file.as_os_str().to_owned();
        name.push(format!(".{}", std::process::id()));
        let written = fs::File::create(&name)
            .and_then(|mut out| writeln!(out, "{:#}", self.document(exit)))
            .and_then(|()| fs::rename(&name, file));
        written.map_err(|error| {
            let text = format!("the report {} can't be written: {error}", file.display());
            CommandError::new(Exit::Internal, text)
        })
    }
}

/// 64-bit numbers are texts in our JSON.
fn millis(duration: Duration) -> String {
    duration.as_millis().to_string()
}
