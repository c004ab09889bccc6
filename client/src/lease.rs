//! The lease, as the client counts it. Pure: the time comes in as an argument.
//!
//! ```text
//! safe-until = when the acknowledged message was sent + granted TTL − margin
//! margin     = 2 % of the TTL + min(250 ms, TTL / 4)
//! ```
//!
//! The server starts the TTL after that message was sent, so it cannot end the lease before
//! safe-until, even if its clock runs 2 % fast and the client takes a moment to stop.

use std::time::Duration;

use lockd_proto::clock::Instant;

/// The share by which keepalives are sent earlier or later.
pub(crate) const KEEPALIVE_JITTER: f64 = 0.1;

/// What an attempt to resume is given at least.
const SHORTEST_ATTEMPT: Duration = Duration::from_millis(250);

/// The shortest limit on the pause between attempts to resume, so that many clients together do
/// not keep a server busy that is about to come back.
const SHORTEST_PAUSE: Duration = Duration::from_millis(200);

/// The longest pause once a renewal is late.
const LONGEST_LATE_PAUSE: Duration = Duration::from_millis(500);

/// The limit on the pause when less than two of [`SHORTEST_PAUSE`] are left.
const SHORTEST_LAST_PAUSE: Duration = Duration::from_millis(20);

/// A lease that was granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lease {
    sent: Instant,
    ttl: Duration,
}

/// How a lease stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Standing {
    /// Renewals arrive on time.
    Current,
    /// A renewal is late, but safe-until lies ahead.
    Late,
    /// Safe-until has passed.
    Expired,
}

/// How often a lease is renewed.
pub(crate) fn keepalive_interval(ttl: Duration) -> Duration {
    ttl / 5
}

/// How long the answer to a message may take before the stream counts as broken: 1 s, or a
/// tenth of a longer TTL, but never more than half the TTL, so that another address gets
/// its chance within the lease.
pub(crate) fn reply_timeout(ttl: Duration) -> Duration {
    Duration::from_secs(1).max(ttl / 10).min(ttl / 2)
}

impl Lease {
    /// A lease that was granted in answer to a message sent at `sent`.
    pub(crate) fn granted(sent: Instant, ttl: Duration) -> Self {
        Self { sent, ttl }
    }

    /// Takes note of a renewal, unless a later one is known already.
    pub(crate) fn renew(&mut self, sent: Instant, ttl: Duration) {
        if sent >= self.sent {
            *self = Self::granted(sent, ttl);
        }
    }

    pub(crate) fn ttl(&self) -> Duration {
        self.ttl
    }

    /// How long an attempt to resume may take: a fifth of the TTL, or 1 s of a shorter one. While
    /// the lease can still be renewed, at most half of what is left, so that an address that does
    /// not answer leaves time for another one.
    pub(crate) fn attempt_timeout(&self, now: Instant) -> Duration {
        let timeout = (self.ttl / 5).max(Duration::from_secs(1));
        match self.left(now) {
            Duration::ZERO => timeout,
            left => timeout.min((left / 2).max(SHORTEST_ATTEMPT)),
        }
    }

    /// The pause before the next attempt to resume: the `usual` one, or a shorter one while the
    /// lease can still be renewed. An attempt that comes too late loses all that is held.
    pub(crate) fn retry_pause(&self, now: Instant, usual: Duration) -> Duration {
        let left = self.left(now);
        let longest = match self.standing(now) {
            Standing::Expired => return usual,
            Standing::Late => LONGEST_LATE_PAUSE,
            Standing::Current => left,
        };
        let shortest = SHORTEST_PAUSE.min(left / 2).max(SHORTEST_LAST_PAUSE);
        usual.min((left / 8).min(longest).max(shortest))
    }

    fn left(&self, now: Instant) -> Duration {
        self.safe_until().saturating_duration_since(now)
    }

    /// Until when no other session can have been granted what this lease holds.
    pub(crate) fn safe_until(&self) -> Instant {
        self.sent + self.ttl.saturating_sub(lockd_proto::safety_margin(self.ttl))
    }

    /// When the server may have ended it, if nothing was renewed.
    pub(crate) fn over_at(&self) -> Instant {
        self.safe_until() + lockd_proto::safety_margin(self.ttl) * 2
    }

    pub(crate) fn standing(&self, now: Instant) -> Standing {
        if now >= self.safe_until() {
            Standing::Expired
        } else if now >= self.late_at() {
            Standing::Late
        } else {
            Standing::Current
        }
    }

    /// When its standing changes next, if nothing is renewed.
    pub(crate) fn next_change(&self, now: Instant) -> Option<Instant> {
        match self.standing(now) {
            Standing::Current => Some(self.late_at().min(self.safe_until())),
            Standing::Late => Some(self.safe_until()),
            Standing::Expired => None,
        }
    }

    /// When the next renewal, sent as late as jitter allows, should have been answered.
    fn late_at(&self) -> Instant {
        let interval = keepalive_interval(self.ttl);
        self.sent + interval + interval / 10 + reply_timeout(self.ttl)
    }
}

#[cfg(test)]
mod tests;
