//! How a replica is doing, for everything that asks without a place in the core's queue: health
//! checks, metrics, `Status`.

use std::{sync::Arc, time::Duration};

use lockd_proto::clock::{Clock, Instant};
use parking_lot::Mutex;

use super::{Core, error::Error};
use crate::{
    log::Log,
    record::{Position, ReplicaId},
    state::Counts,
};

/// How long after its last turn began the core counts as stuck: one begins at each tick at least.
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
    /// The most that was done in one turn: messages, timers, operations, and what followed from each of
    /// those. How long it delays all others is in proportion to it.
    pub largest_turn: usize,
    /// A replica whose state is not what the log says.
    pub differs: Option<ReplicaId>,
    /// When the latest turn began; `None` before the first one.
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
            largest_turn: 0,
            differs: None,
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

    /// For how long the core has made no progress, if that is too long.
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
        change(&mut self.inner.lock());
    }
}

impl<L: Log> Core<L> {
    pub(super) fn publish(&mut self) {
        let standing = self.log.standing();
        let not_ready = self.not_ready();
        let (counts, streams) = (self.state.counts(), self.streams.len());
        let (position, is_live) = (self.state.position(), self.me.is_some());
        let (differs, work) = (self.digests.wrong(), self.work);
        self.status.publish(|it| {
            (it.counts, it.streams, it.position, it.is_live) = (counts, streams, position, is_live);
            (it.confirmed, it.not_ready) = (standing.confirmed, not_ready);
            (it.differs, it.largest_turn) = (differs, it.largest_turn.max(work));
        });
    }

    /// Why this replica grants nothing at this moment, if so.
    pub(super) fn not_ready(&self) -> Option<Error> {
        if self.draining {
            return Some(Error::Draining);
        }
        self.not_fresh().or_else(|| self.held_back().map(Error::Restored))
    }

    /// Why this replica answers no question at this moment, if so.
    pub(super) fn not_fresh(&self) -> Option<Error> {
        let standing = self.log.standing();
        match (self.me, standing.confirmed) {
            (None, _) => Some(Error::ViewEmpty),
            (Some(_), _) if standing.is_fresh => None,
            (Some(_), confirmed) => {
                let since = confirmed.unwrap_or(self.origin);
                Some(Error::ViewStale(self.now.saturating_duration_since(since)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_core_whose_last_turn_began_too_long_ago_is_stuck() {
        let clock = Clock::tokio();
        let status = Status::new(clock.clone());
        let second = Duration::from_secs(1);
        tokio::time::advance(2 * STUCK_AFTER).await;
        assert_eq!(status.stuck_for(), None, "the log is read before the first turn");
        status.begin_turn(clock.now());
        // Whether it hangs in its turn or is not run any more.
        status.publish(|_| {});
        tokio::time::advance(STUCK_AFTER - second).await;
        assert_eq!(status.stuck_for(), None);
        tokio::time::advance(second).await;
        assert_eq!(status.stuck_for(), Some(STUCK_AFTER));
        status.begin_turn(clock.now());
        assert_eq!(status.stuck_for(), None);
    }
}
