//! How a replica is doing, for everything that asks without a place in the core's queue: health
//! checks, metrics, `Status`.

use std::{sync::Arc, time::Duration};

use lockd_proto::clock::{Clock, Instant};
use parking_lot::Mutex;

use super::error::Error;
use crate::{record::Position, state::Counts};

/// How long one turn of the core may take before the replica counts as stuck.
pub(crate) const STUCK_AFTER: Duration = Duration::from_secs(10);

/// How a replica is doing. Cheap to clone; clones show the same replica.
#[derive(Debug, Clone)]
pub struct Status {
    inner: Arc<Mutex<Snapshot>>,
    clock: Clock,
    started: Instant,
}

/// How a replica was doing after its latest turn.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Why it grants nothing, if so.
    pub not_ready: Option<Error>,
    /// Whether it has read its log.
    pub is_live: bool,
    /// How much there is.
    pub counts: Counts,
    /// Streams that end here.
    pub streams: usize,
    /// The place of the last operation that was applied.
    pub position: Position,
    /// When deliveries of the log were last known to be whole.
    pub confirmed: Option<Instant>,
    /// Since when the present turn lasts; `None` between turns.
    pub(super) turn: Option<Instant>,
}

impl Status {
    pub(super) fn new(clock: Clock) -> Self {
        let started = clock.now();
        let snapshot = Snapshot {
            not_ready: Some(Error::ViewEmpty),
            is_live: false,
            counts: Counts::default(),
            streams: 0,
            position: Position::default(),
            confirmed: None,
            turn: None,
        };
        Self { inner: Arc::new(Mutex::new(snapshot)), clock, started }
    }

    /// How it was doing after its latest turn.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.inner.lock().clone()
    }

    /// How long ago the log was last known to be followed; `None` before the first time.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        let confirmed = self.inner.lock().confirmed?;
        Some(self.clock.now().saturating_duration_since(confirmed))
    }

    /// For how long the core has been at one turn, if that is too long.
    #[must_use]
    pub fn stuck_for(&self) -> Option<Duration> {
        let turn = self.inner.lock().turn?;
        let lasts = self.clock.now().saturating_duration_since(turn);
        (lasts >= STUCK_AFTER).then_some(lasts)
    }

    /// How long the replica has been up.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.clock.now().saturating_duration_since(self.started)
    }

    pub(super) fn begin_turn(&self, now: Instant) {
        self.inner.lock().turn = Some(now);
    }

    pub(super) fn publish(&self, change: impl FnOnce(&mut Snapshot)) {
        let mut inner = self.inner.lock();
        change(&mut inner);
        inner.turn = None;
    }
}
