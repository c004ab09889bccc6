//! Who leads: its own term by its own clock, and the others' by what lockd says.

use std::{sync::Arc, time::Duration};

use lockd_client::{Client, Context, FencingToken, Leader, Observation, Observed};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::metrics;

/// How long lockd may take to say who leads.
const ASK: Duration = Duration::from_secs(2);

/// The election that the sidecar campaigns in.
#[derive(Debug, Clone)]
pub(super) struct OwnElection {
    pub(super) election: String,
    pub(super) identity: String,
    /// Its latest term, which may be over.
    pub(super) term: Arc<watch::Sender<Option<Term>>>,
    /// Wakes the leading candidate, to resign.
    pub(super) resign: Arc<Notify>,
    observed: watch::Receiver<Observed>,
}

/// Keeps an [`OwnElection`] up to date with what lockd says.
#[derive(Debug)]
pub(super) struct ElectionObserver(watch::Sender<Observed>);

/// A time of leading.
#[derive(Debug, Clone)]
pub(super) struct Term {
    pub(super) token: FencingToken,
    /// Ends with the lease, or when it resigns.
    pub(super) context: Context,
}

/// Who leads an election, as far as can be said at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ElectionState {
    /// This sidecar, for at least this long.
    Me(FencingToken, String, Duration),
    Another(Leader),
    Nobody,
    Unknown,
}

impl Term {
    /// How long it lasts for certain if nothing is renewed any more; nothing once it is over.
    pub(super) fn valid_for(&self) -> Duration {
        self.context.remaining().unwrap_or_default()
    }
}

impl OwnElection {
    pub(super) fn new(election: String, identity: String) -> (Self, ElectionObserver) {
        let (observer, observed) = watch::channel(Observed::Unknown);
        let (term, resign) = (Arc::new(watch::Sender::new(None)), Arc::default());
        (Self { election, identity, term, resign, observed }, ElectionObserver(observer))
    }

    pub(super) fn state(&self) -> ElectionState {
        let latest = self.term.borrow().clone();
        // Looked at once: a moment later it may be over.
        let left = latest.as_ref().map(Term::valid_for).unwrap_or_default();
        if let Some(term) = latest.as_ref().filter(|_| !left.is_zero()) {
            return ElectionState::Me(term.token, self.identity.clone(), left);
        }
        match &*self.observed.borrow() {
            // It led until now, and what was observed is of that time.
            Observed::Leader(leader) if latest.is_some_and(|last| last.token == leader.token) => {
                ElectionState::Unknown
            }
            observed => ElectionState::from(observed.clone()),
        }
    }

    /// How it stands, and then each change.
    pub(super) fn changes(&self) -> Changes {
        Changes { term: self.term.subscribe(), own: self.clone(), last: None }
    }
}

/// How the sidecar's own election stands, one change after the other.
#[derive(Debug)]
pub(super) struct Changes {
    own: OwnElection,
    term: watch::Receiver<Option<Term>>,
    last: Option<ElectionState>,
}

impl Changes {
    /// The next state. Cancel safe.
    pub(super) async fn next(&mut self) -> ElectionState {
        loop {
            let latest = self.term.borrow_and_update().clone();
            self.own.observed.mark_unchanged();
            let now = self.own.state();
            if !self.last.as_ref().is_some_and(|last| last.is_like(&now)) {
                self.last = Some(now.clone());
                return now;
            }
            let over = async {
                match (&now, latest) {
                    (ElectionState::Me(..), Some(term)) => drop(term.context.cancelled().await),
                    _ => std::future::pending().await,
                }
            };
            // Who observes ends with the sidecar, or earlier: then nothing more is heard from there.
            tokio::select! {
                () = over => {}
                Ok(()) = self.term.changed() => {}
                Ok(()) = self.own.observed.changed() => {}
            }
        }
    }
}

impl ElectionObserver {
    /// Passes on what is observed until the end.
    pub(super) async fn run(self, mut observation: Observation, end: CancellationToken) {
        let mut last = None;
        while let Some(observed) = end.run_until_cancelled(observation.next()).await {
            match observed {
                Ok(observed) => {
                    if let Observed::Leader(leader) = &observed
                        && last.replace(leader.token).is_some_and(|last| last != leader.token)
                    {
                        metrics::leader_changed();
                    }
                    self.0.send_replace(observed);
                }
                Err(error) => {
                    tracing::error!(%error, "the election can't be observed");
                    self.0.send_replace(Observed::Unknown);
                    return;
                }
            }
        }
    }
}

/// What a leader has said of itself.
pub(super) fn value_of(leader: &Leader) -> String {
    String::from_utf8_lossy(&leader.value).into_owned()
}

impl From<Observed> for ElectionState {
    fn from(observed: Observed) -> Self {
        match observed {
            Observed::Leader(leader) => Self::Another(leader),
            Observed::Nobody => Self::Nobody,
            Observed::Unknown => Self::Unknown,
        }
    }
}

impl ElectionState {
    /// Whether it is the same but for how long it lasts.
    fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Me(token, ..), Self::Me(other, ..)) => token == other,
            _ => self == other,
        }
    }

    /// Who leads an election that it does not campaign in.
    pub(super) async fn ask(client: &Client, election: &str) -> Result<Self, lockd_client::Error> {
        let election = client.election(election);
        match tokio::time::timeout(ASK, election.leader()).await {
            Ok(leader) => Ok(leader?.map_or(Self::Nobody, Self::Another)),
            Err(_) => Ok(Self::Unknown),
        }
    }

    pub(super) fn to_json(&self, election: &str) -> Value {
        let (state, leader, token, valid_for) = match self {
            Self::Me(token, identity, valid_for) => {
                ("leader", Some(identity.clone()), Some(*token), Some(*valid_for))
            }
            Self::Another(leader) => ("standby", Some(value_of(leader)), Some(leader.token), None),
            Self::Nobody => ("nobody", None, None, None),
            Self::Unknown => ("unknown", None, None, None),
        };
        json!({
            "election": election,
            "state": state,
            "leader": leader,
            "is_me": matches!(self, Self::Me(..)),
            "token": token.map(|token| token.to_string()),
            "valid_for_ms": valid_for.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
        })
    }
}
