//! What a core is made of, and how much there may be.

use std::sync::Arc;

use lockd_proto::clock::Clock;
use tokio_util::sync::CancellationToken;

use crate::telemetry::traces::Traces;

/// How much a session, a lock and a replica may have, as this replica sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Entries in one lock's queue, the holders included.
    pub waiters_per_lock: usize,
    /// Entries that a session may have, held locks included.
    pub entries_per_session: usize,
    /// Sessions, beyond which this replica opens no more.
    pub sessions: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            waiters_per_lock: 10_000,
            entries_per_session: crate::state::MAX_ENTRIES,
            sessions: 100_000,
        }
    }
}

/// What a core is made of, beside its log.
#[derive(Debug)]
pub struct Parts {
    /// The replica's name, for people.
    pub name: Arc<str>,
    /// How much there may be.
    pub limits: Limits,
    /// The time.
    pub clock: Clock,
    /// Spans of requests that are traced.
    pub traces: Traces,
    /// Cancelled when the replica begins to shut down.
    pub drain: CancellationToken,
    /// Cancelled when the time to shut down is over.
    pub end: CancellationToken,
}
