//! When to renew the lease on this stream. Pure: the time comes in as an argument.

use std::time::Duration;

use lockd_proto::{clock::Instant, retry::Retry};

use crate::lease::{self, KEEPALIVE_JITTER};

/// When keepalives are due, and which one is on its way.
#[derive(Debug)]
pub(super) struct Keepalive {
    pub(super) due: Instant,
    /// The one that is not acknowledged yet, and when it was sent.
    pub(super) open: Option<(u64, Instant)>,
    sequence: u64,
    pauses: Retry,
}

impl Keepalive {
    pub(super) fn new(now: Instant, ttl: Duration) -> Self {
        let pauses = Retry::steady(lease::keepalive_interval(ttl), KEEPALIVE_JITTER);
        Self { due: now, open: None, sequence: 0, pauses }
    }

    /// A stream was attached, which renewed the lease.
    pub(super) fn start(&mut self, sent: Instant, ttl: Duration) {
        *self = Self::new(sent, ttl);
        self.due = sent + self.pauses.next_delay().unwrap_or_default();
    }

    pub(super) fn begin(&mut self, now: Instant) -> u64 {
        self.sequence += 1;
        self.open = Some((self.sequence, now));
        self.due = now + self.pauses.next_delay().unwrap_or_default();
        self.sequence
    }

    /// When the keepalive with this sequence was sent, if it is the open one.
    pub(super) fn acknowledge(&mut self, sequence: u64) -> Option<Instant> {
        let (_, sent) = self.open.take_if(|(open, _)| *open == sequence)?;
        Some(sent)
    }

    /// Whether this stream has ever renewed the lease.
    pub(super) fn acknowledged(&self) -> bool {
        self.sequence > u64::from(self.open.is_some())
    }
}
