//! Campaigns, leads, and campaigns again.
//!
//! ```text
//! campaigning ──► leading ── resigns, the app dies ─► on-lost ─► released
//!                    └── safe-until − grace ─► on-lost, the app is stopped ─► safe-until: killed
//! ```
//!
//! A candidacy and what it leads to belong to one life of the app: where that can come back, it
//! campaigns anew. Before it gives up what it has, it no longer reports that it leads.

use std::time::Duration;

use lockd_client::{Context, Election, Leadership};
use lockd_proto::retry::{Policy, Retry};
use tokio_util::sync::CancellationToken;

use super::{
    app::{App, AppLife},
    elections::{OwnElection, Term},
    hooks::Hooks,
    label::PodLabel,
    metrics,
    state_file::StateFile,
};

/// Takes part in an election for as long as the sidecar runs.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) election: Election,
    pub(super) own: OwnElection,
    pub(super) hooks: Hooks,
    pub(super) state_file: Option<StateFile>,
    pub(super) app: App,
    pub(super) label: Option<PodLabel>,
    pub(super) ttl: Duration,
    /// How long before its lease ends a leadership is given up.
    pub(super) grace: Duration,
    /// Time limit for the app to end when the sidecar stops.
    pub(super) drain: Duration,
    pub(super) stop: CancellationToken,
    /// Cancelled when nothing is waited for any more.
    pub(super) end: CancellationToken,
}

/// Why a term ends.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Over {
    /// It is to stop.
    Stop,
    /// The app has died.
    Died,
    /// A client has asked it to resign, for this reason.
    Asked(String),
    /// The lease can't be renewed, or an operator has stepped in.
    Lost,
}

impl Candidate {
    /// Runs until the sidecar is to stop. What is held is released then.
    pub(super) async fn run(self) {
        let mut retry = Retry::new(Policy::default());
        self.write_state(None).await;
        while !self.stop.is_cancelled() {
            let life = match self.stop.run_until_cancelled(self.app.lives()).await {
                Some(Some(life)) => life,
                Some(None) => {
                    tracing::info!("the app has ended: not campaigning any more");
                    self.stop.cancel();
                    break;
                }
                None => break,
            };
            let context = Context::background();
            let campaign = self.election.campaign(&context, self.own.identity.as_str());
            let elected = tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                () = life.cancelled() => continue,
                elected = campaign => elected,
            };
            match elected {
                Ok(leadership) => {
                    retry.reset();
                    self.lead(leadership, &life).await;
                }
                Err(error) => {
                    tracing::warn!(%error, "campaigning again");
                    let pause = retry.next_delay().unwrap_or_default();
                    self.stop.run_until_cancelled(tokio::time::sleep(pause)).await;
                }
            }
        }
    }

    async fn lead(&self, leadership: Leadership, life: &AppLife) {
        let token = leadership.token();
        let (context, over) = leadership.context().with_cancel();
        let term = Term { token, context };
        tracing::info!(election = self.own.election, %token, "leading");
        metrics::elected();
        self.own.term.send_replace(Some(term.clone()));
        self.write_state(Some(&term)).await;
        self.label(true);
        let elected = self.hooks.elected(token);
        let why = self.end(&leadership, &term, life).await;
        over.cancel();
        tracing::info!(election = self.own.election, %token, ?why, "leading no longer");
        self.write_state(None).await;
        self.label(false);
        drop(elected);
        let left = leadership.context();
        let unlabelled = left.run(self.unlabelled());
        drop(tokio::join!(self.hooks.lost(token, &left), self.stop_app(&why, &left), unlabelled));
        if let Err(error) = leadership.resign().await {
            tracing::warn!(%error, "the leadership ends with its lease");
        }
    }

    /// Waits until the term has to end, and says why.
    async fn end(&self, leadership: &Leadership, term: &Term, life: &AppLife) -> Over {
        tokio::select! {
            biased;
            _ = leadership.lost() => Over::Lost,
            () = life.cancelled() => Over::Died,
            () = self.is_to_stop() => Over::Stop,
            reason = leadership.yield_requested() => Over::Asked(reason),
            () = self.own.resign.notified() => Over::Asked("the app has asked for it".to_owned()),
            () = self.renewed(term) => Over::Lost,
        }
    }

    /// Keeps the state file at what is true, until the lease ends within the grace.
    async fn renewed(&self, term: &Term) {
        loop {
            let left = term.valid_for();
            let Some(spare) = left.checked_sub(self.grace).filter(|spare| !spare.is_zero()) else {
                return;
            };
            self.write_state(Some(term)).await;
            // A lease that is renewed is renewed five times in its length.
            tokio::time::sleep(spare.min(self.ttl / 5)).await;
        }
    }

    /// Waits until the sidecar is to stop and the app has had its time to end.
    async fn is_to_stop(&self) {
        self.stop.cancelled().await;
        self.end.run_until_cancelled(tokio::time::sleep(self.drain)).await;
    }

    /// Stops the app where the leadership is lost: by SIGTERM and then, before another candidate
    /// can lead, by SIGKILL.
    async fn stop_app(&self, why: &Over, left: &Context) {
        match why {
            Over::Lost => self.app.stop(left).await,
            Over::Stop | Over::Died | Over::Asked(_) => {}
        }
    }

    fn label(&self, leads: bool) {
        if let Some(label) = &self.label {
            label.want(leads);
        }
    }

    /// Waits until the pod no longer has the label of the leader.
    async fn unlabelled(&self) {
        if let Some(label) = &self.label {
            label.says(false).await;
        }
    }

    async fn write_state(&self, term: Option<&Term>) {
        if let Some(file) = &self.state_file {
            file.write(term).await;
        }
    }
}
