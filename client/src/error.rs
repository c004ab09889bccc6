//! The one error type: what was attempted, on which lock, why it failed, and whether trying
//! again can help.

mod fault;
mod timed;

use std::{fmt, time::Duration};

pub(crate) use fault::{Fault, is_answer};
use lockd_proto::FencingToken;
#[allow(unused_imports, reason = "each layer is a feature of its own")]
pub(crate) use timed::Timed;

use crate::{held::LossReason, place::Place};

/// What kind of failure an [`Error`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A name, a TTL, metadata or another argument breaks its rules.
    InvalidArgument,
    /// The lock is held, and the call would not wait.
    Busy,
    /// The lock was not granted within the wait that the call allowed.
    WaitExpired,
    /// The context's deadline passed.
    DeadlineExceeded,
    /// The context was cancelled, or the client was shut down.
    Cancelled,
    /// No server answered, or none could serve the call at that moment.
    Unavailable,
    /// The server refused the caller.
    PermissionDenied,
    /// There is no such lock or session.
    NotFound,
    /// The lock has moved on: another token, another owner, or an operator stepped in.
    Conflict,
    /// The wait was the youngest of a deadlock, which the text lists. A client that gives up
    /// what it holds and starts anew lets the others go on.
    Deadlock,
    /// A party to the barrier, or a worker of the group, has died or left early.
    Broken,
    /// The lock or the lease was lost.
    Lost,
    /// The resource has seen a later fencing token: the lock has been granted to another session.
    /// [`Error::fenced`] has both.
    Fenced,
    /// The work, or what it was done at, failed: [`source`](std::error::Error::source) says why.
    Failed,
    /// A limit was reached: space in the store, or open requests.
    ResourceExhausted,
    /// It is unknown whether the call was applied.
    Unknown,
    /// Client and server do not understand one another.
    Protocol,
    /// A defect of the server.
    Internal,
    /// The client is configured wrongly.
    Configuration,
}

impl ErrorKind {
    fn words(self) -> &'static str {
        match self {
            Self::InvalidArgument => "invalid argument",
            Self::Busy => "lock is busy",
            Self::WaitExpired => "wait expired",
            Self::DeadlineExceeded => "deadline exceeded",
            Self::Cancelled => "cancelled",
            Self::Unavailable => "unavailable",
            Self::PermissionDenied => "permission denied",
            Self::NotFound => "not found",
            Self::Conflict => "conflict",
            Self::Deadlock => "deadlock",
            Self::Broken => "broken",
            Self::Lost => "lost",
            Self::Fenced => "fenced",
            Self::Failed => "failed",
            Self::ResourceExhausted => "resource exhausted",
            Self::Unknown => "outcome unknown",
            Self::Protocol => "protocol error",
            Self::Internal => "internal error",
            Self::Configuration => "bad configuration",
        }
    }
}

/// Why a call failed, in one line for people and in predicates for programs.
///
/// ```text
/// acquire "orders/42": deadline exceeded after 3.0s of 3.0s (held by api-7, token 812, 2 ahead) [trace 4bf92f35]
/// ```
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    call: Call,
    fault: Fault,
    place: Option<Place>,
    spent: Option<Spent>,
}

/// What a resource that refused a write has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fenced {
    /// The token of the guard.
    pub ours: FencingToken,
    /// The later one that the resource has stored.
    pub stored: FencingToken,
}

/// What was attempted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Call {
    pub(crate) operation: &'static str,
    pub(crate) target: Option<String>,
    pub(crate) trace_id: Option<String>,
}

impl Call {
    pub(crate) fn new(operation: &'static str) -> Self {
        Self { operation, ..Self::default() }
    }

    pub(crate) fn on(mut self, target: impl Into<String>) -> Self {
        self.target = Some(target.into());
        self
    }

    pub(crate) fn traced(mut self, trace_id: Option<&str>) -> Self {
        self.trace_id = trace_id.map(str::to_owned);
        self
    }

    pub(crate) fn failed(&self, fault: Fault) -> Error {
        Error(Box::new(Inner { call: self.clone(), fault, place: None, spent: None }))
    }
}

/// How long a call took, and how long it might have taken.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spent {
    pub(crate) elapsed: Duration,
    pub(crate) budget: Option<Duration>,
}

impl Error {
    pub(crate) fn after(mut self, spent: Spent) -> Self {
        self.0.spent = Some(spent);
        self
    }

    pub(crate) fn in_queue(mut self, place: Option<Place>) -> Self {
        self.0.place = place;
        self
    }

    /// What kind of failure this is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.fault.kind
    }

    /// Whether the same call can succeed if it is made again, perhaps after
    /// [`retry_after`](Self::retry_after).
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self.kind() {
            ErrorKind::Busy
            | ErrorKind::WaitExpired
            | ErrorKind::Unavailable
            | ErrorKind::Deadlock
            | ErrorKind::Broken
            | ErrorKind::Lost
            | ErrorKind::Unknown => true,
            ErrorKind::ResourceExhausted => self.retry_after().is_some(),
            ErrorKind::InvalidArgument
            | ErrorKind::DeadlineExceeded
            | ErrorKind::Cancelled
            | ErrorKind::PermissionDenied
            | ErrorKind::NotFound
            | ErrorKind::Conflict
            | ErrorKind::Fenced
            | ErrorKind::Failed
            | ErrorKind::Protocol
            | ErrorKind::Internal
            | ErrorKind::Configuration => false,
        }
    }

    /// How long the server asks to wait before the next try, where it said so.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.fault.retry_after
    }

    /// Whether the lock is lost: what it protected must stop.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.kind() == ErrorKind::Lost
    }

    /// Why the lock was lost, if it was.
    #[must_use]
    pub fn loss(&self) -> Option<&LossReason> {
        self.0.fault.loss.as_ref()
    }

    /// Which tokens met, if a resource refused ours for a later one.
    #[must_use]
    pub fn fenced(&self) -> Option<Fenced> {
        self.0.fault.fenced
    }

    /// Whether the call may have taken effect all the same. An acquire that failed never
    /// leaves anything behind, so this concerns releases, forced releases, commits and commands.
    #[must_use]
    pub fn may_have_applied(&self) -> bool {
        self.0.fault.may_have_applied
    }

    /// The server's stable reason, such as `TTL_OUT_OF_RANGE`, where a server gave one.
    #[must_use]
    pub fn reason(&self) -> Option<&'static str> {
        self.0.fault.reason.map(lockd_proto::v1::Reason::name)
    }

    /// The operation that failed, such as `acquire`.
    #[must_use]
    pub fn operation(&self) -> &'static str {
        self.0.call.operation
    }

    /// What the operation was about: a lock's name, a prefix, or addresses.
    #[must_use]
    pub fn target(&self) -> Option<&str> {
        self.0.call.target.as_deref()
    }

    /// The whole trace id of the call; the text shows its first eight characters.
    #[must_use]
    pub fn trace_id(&self) -> Option<&str> {
        self.0.call.trace_id.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { call, fault, place, spent } = &*self.0;
        f.write_str(call.operation)?;
        if let Some(target) = &call.target {
            write!(f, " {target:?}")?;
        }
        write!(f, ": {}", fault.kind.words())?;
        if let Some(Spent { elapsed, budget }) = spent {
            write!(f, " after {:.1}s", elapsed.as_secs_f64())?;
            if let Some(budget) = budget {
                write!(f, " of {:.1}s", budget.as_secs_f64())?;
            }
        }
        let place = place.as_ref().map(ToString::to_string);
        let message = Some(&fault.message).filter(|message| !message.is_empty());
        match (place, message) {
            (None, None) => {}
            (Some(place), None) => write!(f, " ({place})")?,
            (None, Some(message)) => write!(f, " ({message})")?,
            (Some(place), Some(message)) => write!(f, " ({place}; {message})")?,
        }
        if let Some(trace_id) = &call.trace_id {
            let short: String = trace_id.chars().take(8).collect();
            write!(f, " [trace {short}]")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.fault.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_for_people_is_as_documented() {
        let place = Place { holder: Some(("api-7".to_owned(), 812)), ahead: 2 };
        let seconds = Duration::from_secs(3);
        let error = Call::new("acquire")
            .on("orders/42")
            .traced(Some("4bf92f3577b34da6a3ce929d0e0e4736"))
            .failed(Fault::of(ErrorKind::DeadlineExceeded))
            .after(Spent { elapsed: seconds, budget: Some(seconds) })
            .in_queue(Some(place));
        assert_eq!(
            error.to_string(),
            "acquire \"orders/42\": deadline exceeded after 3.0s of 3.0s \
             (held by api-7, token 812, 2 ahead) [trace 4bf92f35]"
        );
    }

    #[test]
    fn what_is_not_known_is_not_shown() {
        let error = Call::new("status").failed(Fault::of(ErrorKind::Unavailable));
        assert_eq!(error.to_string(), "status: unavailable");
    }
}
