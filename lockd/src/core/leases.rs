//! Leases of sessions, as the replica counts them that keeps them. Pure: the time comes in as an
//! argument.
//!
//! ```text
//! ends at = last heard of + TTL + margin          margin = 2 % of the TTL + 250 ms
//! heard of = a keepalive's arrival, or the moment when the attachment was applied here
//! ```
//!
//! After a move from another replica silence counts K longer the first time, since until then that
//! one may still have answered (RULES L1–L3). The sessions of a replica that is gone count from when
//! that was seen (L4).

use std::{collections::HashMap, time::Duration};

use lockd_proto::{SessionId, clock::Instant, safety_margin};

use crate::record::Position;

/// The sessions whose silence this replica counts.
#[derive(Debug, Default)]
pub(super) struct Leases(HashMap<SessionId, Count>);

#[derive(Debug, Clone, Copy)]
struct Count {
    epoch: Position,
    heard: Instant,
    ttl: Duration,
}

/// Whether a session has been silent for too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Silence {
    /// It has: its end can be proposed, for this epoch.
    Over { epoch: Position },
    /// Not before this moment.
    Until(Instant),
    /// It is not counted here.
    NotCounted,
}

impl Leases {
    /// Counts a session from a moment on, and says when to look at it.
    pub(super) fn count(
        &mut self,
        session: SessionId,
        epoch: Position,
        (from, ttl): (Instant, Duration),
    ) -> Instant {
        self.0.insert(session, Count { epoch, heard: from, ttl });
        from + ttl + safety_margin(ttl)
    }

    pub(super) fn forget(&mut self, session: SessionId) {
        self.0.remove(&session);
    }

    /// The session's client was heard of. Says how much of its lease was left.
    pub(super) fn heard(&mut self, session: SessionId, at: Instant) -> Option<Duration> {
        let count = self.0.get_mut(&session)?;
        let left = count.ttl.saturating_sub(at.saturating_duration_since(count.heard));
        count.heard = count.heard.max(at);
        Some(left)
    }

    /// What is left of a session's lease.
    pub(super) fn left(&self, session: SessionId, now: Instant) -> Option<Duration> {
        let count = self.0.get(&session)?;
        Some(count.ttl.saturating_sub(now.saturating_duration_since(count.heard)))
    }

    pub(super) fn silence(&self, session: SessionId, now: Instant) -> Silence {
        let Some(count) = self.0.get(&session) else { return Silence::NotCounted };
        let over = count.heard + count.ttl + safety_margin(count.ttl);
        if now >= over { Silence::Over { epoch: count.epoch } } else { Silence::Until(over) }
    }
}

/// The TTL that an answer to a keepalive promises which arrived at `arrived`: shorter by what that is
/// past `promise_until`, and by the margin that its client takes off a shorter TTL the less. `None` if
/// nothing is left to promise.
pub(super) fn promised(
    ttl: Duration,
    arrived: Instant,
    promise_until: Option<Instant>,
) -> Option<Duration> {
    let past = promise_until.map(|until| arrived.saturating_duration_since(until));
    let past = past.unwrap_or_default();
    let promised = ttl.saturating_sub(past + past / 50);
    (promised > safety_margin(ttl)).then_some(promised)
}

#[cfg(test)]
mod tests {
    use lockd_proto::clock::Clock;

    use super::*;

    const TTL: Duration = Duration::from_secs(10);
    const MARGIN: Duration = Duration::from_millis(450);

    #[test]
    fn a_session_is_over_after_its_ttl_and_a_margin_of_silence() {
        let (mut leases, session) = (Leases::default(), SessionId::random());
        let start = Clock::system().now();
        let over = leases.count(session, Position(7), (start, TTL));
        assert_eq!(over, start + TTL + MARGIN);
        assert_eq!(leases.silence(session, over - MARGIN), Silence::Until(over));
        let heard = start + Duration::from_secs(4);
        assert_eq!(leases.heard(session, heard), Some(Duration::from_secs(6)));
        assert_eq!(leases.silence(session, over), Silence::Until(heard + TTL + MARGIN));
        let end = heard + TTL + MARGIN;
        assert_eq!(leases.silence(session, end), Silence::Over { epoch: Position(7) });
        leases.forget(session);
        assert_eq!(leases.silence(session, end), Silence::NotCounted);
    }

    /// L1, L6: what lies beyond `proved + K` is taken off the answer.
    #[test]
    fn an_answer_promises_no_more_than_was_proved() {
        let proved = Clock::system().now();
        let later = proved + Duration::from_secs(3);
        assert_eq!(promised(TTL, later, None), Some(TTL));
        assert_eq!(promised(TTL, proved, Some(later)), Some(TTL));
        assert_eq!(promised(TTL, later, Some(proved)), Some(Duration::from_millis(6940)));
        assert_eq!(promised(TTL, proved + TTL, Some(proved)), None);
    }

    /// A client takes 2 % of what was promised off, and its clock may be that much slow over the whole TTL.
    #[test]
    fn a_client_with_a_shorter_ttl_stops_as_early_as_one_with_the_whole_margin() {
        let (ttl, proved) = (Duration::from_secs(60), Clock::system().now());
        for past in (0..58).map(Duration::from_secs) {
            let promised = promised(ttl, proved + past, Some(proved)).unwrap_or_default();
            let stops = promised.saturating_sub(safety_margin(promised));
            assert!(
                stops <= ttl - safety_margin(ttl) - past + Duration::from_millis(25),
                "{past:?}"
            );
        }
    }
}
