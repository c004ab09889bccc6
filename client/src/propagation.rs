//! How far contexts reach beyond this process, and the counts of what they ended there.
//!
//! A team that switches propagation on for the first time wants to know beforehand which calls
//! it will end: [`Propagation::Observe`] counts and logs these, and ends none.

use std::{
    fmt,
    str::FromStr,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

/// The variable that decides for the process.
const VARIABLE: &str = "LOCKD_DEADLINE_PROPAGATION";

/// Whether the ends of contexts reach the calls, servers and databases beyond this process.
///
/// The process decides by `LOCKD_DEADLINE_PROPAGATION=off|observe|on`, and a context by
/// [`Context::with_propagation`](crate::Context::with_propagation). It concerns the layers only: waiting for a lock and
/// [`Context::run`](crate::Context::run) always end with their context, and fencing is never switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Propagation {
    /// Deadlines and cancellation stay in this process.
    Off,
    /// Nothing is ended, but what would have been is counted and logged.
    Observe,
    /// Deadlines and cancellation reach everything that the layers call.
    #[default]
    On,
}

/// A value of `LOCKD_DEADLINE_PROPAGATION` that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{VARIABLE} is {0:?}: set it to off, observe or on")]
pub struct PropagationError(String);

impl Propagation {
    /// What `LOCKD_DEADLINE_PROPAGATION` says, or [`On`](Self::On) if it is not set.
    ///
    /// # Errors
    /// It says something else.
    pub fn from_env() -> Result<Self, PropagationError> {
        match std::env::var(VARIABLE) {
            Ok(text) if text.is_empty() => Ok(Self::default()),
            Ok(text) => text.parse(),
            Err(std::env::VarError::NotPresent) => Ok(Self::default()),
            Err(std::env::VarError::NotUnicode(text)) => {
                Err(PropagationError(text.to_string_lossy().into_owned()))
            }
        }
    }

    /// What new contexts have. Read once; a mistake is logged, and is an error of
    /// [`Client::connect`](crate::Client::connect).
    pub(crate) fn of_process() -> Self {
        static PROCESS: OnceLock<Propagation> = OnceLock::new();
        *PROCESS.get_or_init(|| {
            Self::from_env().unwrap_or_else(|error| {
                tracing::error!(%error, "deadlines are propagated");
                Self::default()
            })
        })
    }
}

impl FromStr for Propagation {
    type Err = PropagationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "off" => Ok(Self::Off),
            "observe" => Ok(Self::Observe),
            "on" => Ok(Self::On),
            _ => Err(PropagationError(text.to_owned())),
        }
    }
}

impl fmt::Display for Propagation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Observe => "observe",
            Self::On => "on",
        })
    }
}

/// What contexts have ended in this process so far, in numbers of calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Counts {
    /// Requests that came with a deadline.
    pub received: u64,
    /// Calls that were ended because their context had.
    pub ended: u64,
    /// Calls that would have been ended, had propagation been on.
    pub would_have_ended: u64,
}

static RECEIVED: AtomicU64 = AtomicU64::new(0);
static ENDED: AtomicU64 = AtomicU64::new(0);
static WOULD_HAVE_ENDED: AtomicU64 = AtomicU64::new(0);

/// The counts of this process, over all layers.
#[must_use]
pub fn counts() -> Counts {
    // Independent counters: nothing is inferred from one about another.
    Counts {
        received: RECEIVED.load(Ordering::Relaxed),
        ended: ENDED.load(Ordering::Relaxed),
        would_have_ended: WOULD_HAVE_ENDED.load(Ordering::Relaxed),
    }
}

/// A call was ended because its context had.
#[allow(dead_code, reason = "each layer is a feature of its own")]
pub(crate) fn call_ended() {
    ENDED.fetch_add(1, Ordering::Relaxed);
}

/// A call went on though its context had ended.
#[allow(dead_code, reason = "each layer is a feature of its own")]
pub(crate) fn call_would_have_ended() {
    WOULD_HAVE_ENDED.fetch_add(1, Ordering::Relaxed);
}

/// A request came with a deadline.
#[cfg(any(feature = "grpc", feature = "http"))]
pub(crate) fn deadline_received() {
    RECEIVED.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_they_are_written() {
        for propagation in [Propagation::Off, Propagation::Observe, Propagation::On] {
            assert_eq!(propagation.to_string().parse(), Ok(propagation));
        }
        let error = "yes".parse::<Propagation>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "LOCKD_DEADLINE_PROPAGATION is \"yes\": set it to off, observe or on"
        );
    }
}
