//! Whether it leads, in a file: for apps that read files only.

use std::{
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};

use super::elections::{OwnElection, Term};

/// A file that is replaced as a whole.
#[derive(Debug)]
pub(super) struct StateFile {
    path: PathBuf,
    election: String,
    identity: String,
}

impl StateFile {
    pub(super) fn new(path: PathBuf, own: &OwnElection) -> Self {
        Self { path, election: own.election.clone(), identity: own.identity.clone() }
    }

    /// Writes what is true now. A reader that finds `valid_until_unix_ms` in the past knows
    /// that the file is no longer written.
    pub(super) async fn write(&self, term: Option<&Term>) {
        let state = self.state(term);
        if let Err(error) = self.replace(&state).await {
            tracing::error!(%error, path = %self.path.display(), "the state file can't be written");
        }
    }

    fn state(&self, term: Option<&Term>) -> Value {
        json!({
            "election": self.election,
            "identity": self.identity,
            "leader": term.is_some(),
            "token": term.map(|term| term.token.to_string()),
            "valid_until_unix_ms": term.map(valid_until_unix_ms),
        })
    }

    async fn replace(&self, state: &Value) -> std::io::Result<()> {
        // In the same folder, so that it can be renamed.
        let mut beside = self.path.clone().into_os_string();
        beside.push(format!(".{}", std::process::id()));
        tokio::fs::write(&beside, format!("{state}\n")).await?;
        tokio::fs::rename(&beside, &self.path).await
    }
}

#[allow(clippy::disallowed_methods, reason = "the app reads the same clock of the same machine")]
fn valid_until_unix_ms(term: &Term) -> u64 {
    let until = SystemTime::now() + term.valid_for();
    let since = until.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
