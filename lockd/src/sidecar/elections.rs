//! Who leads: its own reign by its own clock, and the others' by what lockd says.

use std::{sync::Arc, time::Duration};

use lockd_client::{Client, Context, FencingToken, Leader, Observation, Observed};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::metrics;
use crate::cli::leader::value;

/// How long lockd may take to say who leads.
const ASK: Duration = Duration::from_secs(2);

/// The election that the sidecar campaigns in.
#[derive(Debug, Clone)]
pub(super) struct Own {
    pub(super) election: String,
    pub(super) identity: String,
    /// Its latest reign, which may be over.
    pub(super) reign: Arc<watch::Sender<Option<Reign>>>,
    /// Wakes the leading candidate, to resign.
    pub(super) resign: Arc<Notify>,
    observed: watch::Receiver<Observed>,
}

/// Where what is observed goes.
#[derive(Debug)]
pub(super) struct Told(watch::Sender<Observed>);

/// A time of leading.
#[derive(Debug, Clone)]
pub(super) struct Reign {
    pub(super) token: FencingToken,
    /// Ends with the lease, or when it resigns.
    pub(super) context: Context,
}

/// Who leads an election, as far as can be said at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// This sidecar, for at least this long.
    Me(FencingToken, String, Duration),
    Another(Leader),
    Nobody,
    Unknown,
}

impl Reign {
    /// How long it lasts for certain if nothing is renewed any more; nothing once it is over.
    pub(super) fn valid_for(&self) -> Duration {
        self.context.remaining().unwrap_or_default()
    }
}

impl Own {
    pub(super) fn new(election: String, identity: String) -> (Self, Told) {
        let (told, observed) = watch::channel(Observed::Unknown);
        let (reign, resign) = (Arc::new(watch::Sender::new(None)), Arc::default());
        (Self { election, identity, reign, resign, observed }, Told(told))
    }

    pub(super) fn standing(&self) -> Standing {
        let latest = self.reign.borrow().clone();
        // Looked at once: a moment later it may be over.
        let left = latest.as_ref().map(Reign::valid_for).unwrap_or_default();
        if let Some(reign) = latest.as_ref().filter(|_| !left.is_zero()) {
            return Standing::Me(reign.token, self.identity.clone(), left);
        }
        match &*self.observed.borrow() {
            // It led until now, and what was observed is of that time.
            Observed::Leader(leader) if latest.is_some_and(|last| last.token == leader.token) => {
                Standing::Unknown
            }
            observed => Standing::from(observed.clone()),
        }
    }

    /// How it stands, and then each change.
    pub(super) fn changes(&self) -> Changes {
        Changes { reign: self.reign.subscribe(), own: self.clone(), last: None }
    }
}

/// How the sidecar's own election stands, one change after the other.
#[derive(Debug)]
pub(super) struct Changes {
    own: Own,
    reign: watch::Receiver<Option<Reign>>,
    last: Option<Standing>,
}

impl Changes {
    /// The next standing. Cancel safe.
    pub(super) async fn next(&mut self) -> Standing {
        loop {
            let latest = self.reign.borrow_and_update().clone();
            self.own.observed.mark_unchanged();
            let now = self.own.standing();
            if !self.last.as_ref().is_some_and(|last| last.is_like(&now)) {
                self.last = Some(now.clone());
                return now;
            }
            let over = async {
                match (&now, latest) {
                    (Standing::Me(..), Some(reign)) => drop(reign.context.cancelled().await),
                    _ => std::future::pending().await,
                }
            };
            // Who observes ends with the sidecar, or earlier: then nothing more is heard from there.
            tokio::select! {
                () = over => {}
                Ok(()) = self.reign.changed() => {}
                Ok(()) = self.own.observed.changed() => {}
            }
        }
    }
}

impl Told {
    /// Keeps up with an election until the end.
    pub(super) async fn observe(self, mut observation: Observation, end: CancellationToken) {
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

impl From<Observed> for Standing {
    fn from(observed: Observed) -> Self {
        match observed {
            Observed::Leader(leader) => Self::Another(leader),
            Observed::Nobody => Self::Nobody,
            Observed::Unknown => Self::Unknown,
        }
    }
}

impl Standing {
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
            Self::Another(leader) => ("standby", Some(value(leader)), Some(leader.token), None),
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
