//! Times to live of a session's lease.

use std::{fmt, time::Duration};

/// The TTL of a session that asks for none.
pub const DEFAULT_TTL: Duration = Duration::from_secs(15);

/// The longest TTL of any store.
pub const MAX_TTL: Duration = Duration::from_secs(3600);

/// What a client takes off its lease before it stops believing in it: 2 % of the TTL for
/// clocks that run at different rates, and 250 ms, or a quarter of a TTL below 1 s, for the
/// time that it takes to act. The server waits as much longer before it ends a session
/// whose client has fallen silent.
#[must_use]
pub fn safety_margin(ttl: Duration) -> Duration {
    ttl / 50 + Duration::from_millis(250).min(ttl / 4)
}

/// A TTL inside its store's range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ttl(Duration);

impl Ttl {
    /// As a duration.
    #[must_use]
    pub fn get(self) -> Duration {
        self.0
    }

    /// A TTL that a store has granted.
    #[must_use]
    pub fn granted(ttl: Duration) -> Self {
        Self(ttl)
    }
}

impl fmt::Display for Ttl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// The TTLs that a store supports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TtlRange {
    /// The shortest.
    pub min: Duration,
    /// The longest.
    pub max: Duration,
}

/// A TTL outside the range of the store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("ttl {asked:?} is out of range: this store supports {min:?} to {max:?}", min = range.min, max = range.max)]
pub struct TtlOutOfRange {
    /// What was asked for.
    pub asked: Duration,
    /// What can be had.
    pub range: TtlRange,
}

impl TtlRange {
    /// Checks a TTL against the range.
    ///
    /// # Errors
    /// [`TtlOutOfRange`] names the range.
    pub fn check(self, asked: Duration) -> Result<Ttl, TtlOutOfRange> {
        if (self.min..=self.max).contains(&asked) {
            Ok(Ttl(asked))
        } else {
            Err(TtlOutOfRange { asked, range: self })
        }
    }
}
