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

    /// Until when nobody else can have been granted what this lease holds.
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
