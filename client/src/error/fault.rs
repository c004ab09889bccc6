//! Why something failed, apart from what was attempted: read from a gRPC status, from a
//! failure on the session stream, or found by the client itself.

use std::{sync::Arc, time::Duration};

use lockd_proto::{
    ERROR_DOMAIN,
    v1::{self, Reason},
};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{ErrorKind, Fenced};
use crate::{context::Cause, held::LossReason};

type Source = Arc<dyn std::error::Error + Send + Sync>;

/// Why something failed.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub(crate) kind: ErrorKind,
    pub(crate) reason: Option<Reason>,
    pub(crate) message: String,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) may_have_applied: bool,
    pub(crate) loss: Option<LossReason>,
    pub(crate) fenced: Option<Fenced>,
    pub(crate) source: Option<Source>,
}

impl Fault {
    pub(crate) fn of(kind: ErrorKind) -> Self {
        Self {
            kind,
            reason: None,
            message: String::new(),
            retry_after: None,
            may_have_applied: false,
            loss: None,
            fenced: None,
            source: None,
        }
    }

    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { message: message.into(), ..Self::of(kind) }
    }

    pub(crate) fn invalid(error: &impl ToString) -> Self {
        Self::new(ErrorKind::InvalidArgument, error.to_string())
    }

    pub(crate) fn protocol(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Protocol, message)
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unavailable, message)
    }

    /// The same, at this address.
    pub(crate) fn at(self, address: &str) -> Self {
        Self { message: format!("{address}: {}", self.message), ..self }
    }

    pub(crate) fn lost(reason: LossReason) -> Self {
        Self { loss: Some(reason.clone()), ..Self::new(ErrorKind::Lost, reason.to_string()) }
    }

    /// A resource has seen a later token.
    #[allow(dead_code, reason = "each resource is a feature of its own")]
    pub(crate) fn fenced(fenced: Fenced) -> Self {
        let Fenced { ours, stored } = fenced;
        let message = format!(
            "our token {ours} is older than {stored}, which the resource has seen: \
             somebody else has been granted the lock"
        );
        Self { fenced: Some(fenced), ..Self::new(ErrorKind::Fenced, message) }
    }

    /// The work failed, or the resource. Names the last cause in the chain.
    #[allow(dead_code, reason = "each resource is a feature of its own")]
    pub(crate) fn failed(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        let source: Source = Arc::from(source.into());
        let message = root_cause(source.as_ref());
        Self { source: Some(source), ..Self::new(ErrorKind::Failed, message) }
    }

    /// The context ended before the call did.
    pub(crate) fn ended(cause: &Cause) -> Self {
        match cause {
            Cause::DeadlineExceeded => Self::of(ErrorKind::DeadlineExceeded),
            Cause::Cancelled => Self::of(ErrorKind::Cancelled),
            Cause::LockLost(reason) => {
                let message = format!("the lock that the context belongs to is lost: {reason}");
                Self::new(ErrorKind::Cancelled, message)
            }
        }
    }

    /// No connection came about, so nothing was applied. Names the last cause in the chain,
    /// since the errors above it only say "transport error".
    pub(crate) fn connection(error: tonic::transport::Error) -> Self {
        let message = root_cause(&error);
        let source: Option<Source> = Some(Arc::new(error));
        Self { source, ..Self::unavailable(message) }
    }

    pub(crate) fn from_status(status: Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info().filter(|info| info.domain == ERROR_DOMAIN);
        let reason = info.and_then(|info| Reason::from_name(&info.reason));
        let retry_after = details.retry_info().and_then(|info| info.retry_delay);
        if let Some(reason) = reason {
            return Self::from_reason(reason, status.message().to_owned(), retry_after);
        }
        if let Some(cause) = std::error::Error::source(&status) {
            // The transport broke, at an unknown point of the call.
            let message = root_cause(cause);
            let source: Option<Source> = Some(Arc::new(status));
            return Self { may_have_applied: true, source, ..Self::unavailable(message) };
        }
        let kind = kind_of_code(status.code());
        let may_have_applied = matches!(
            status.code(),
            Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded
        );
        let message = status.message().to_owned();
        Self { retry_after, may_have_applied, ..Self::new(kind, message) }
    }

    pub(crate) fn from_wire(failure: Option<v1::Failure>) -> Self {
        let failure = failure.unwrap_or_default();
        let retry_after = failure.retry_after.and_then(|after| after.try_into().ok());
        Self::from_reason(failure.reason(), failure.message.clone(), retry_after)
    }

    fn from_reason(reason: Reason, message: String, retry_after: Option<Duration>) -> Self {
        let may_have_applied = reason == Reason::OutcomeUnknown;
        let kind = kind_of_reason(reason);
        Self { reason: Some(reason), retry_after, may_have_applied, ..Self::new(kind, message) }
    }

    /// Whether the session that was asked for is not there.
    pub(crate) fn is_session_gone(&self) -> bool {
        matches!(self.reason, Some(Reason::SessionNotFound | Reason::SecretMismatch))
    }

    /// Whether the same request can succeed later, so that the client itself tries again.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(self.kind, ErrorKind::Unavailable | ErrorKind::Unknown)
            || self.reason == Some(Reason::SlowConsumer)
    }
}

/// Whether a server said this, rather than the way to it.
pub(crate) fn is_answer(status: &Status) -> bool {
    let lockd = status.get_error_details().error_info().is_some_and(|i| i.domain == ERROR_DOMAIN);
    let by_the_way = matches!(
        status.code(),
        Code::Unavailable
            | Code::Unknown
            | Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Internal
    );
    lockd || !by_the_way
}

fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

fn kind_of_reason(reason: Reason) -> ErrorKind {
    match reason {
        Reason::NameInvalid
        | Reason::TtlOutOfRange
        | Reason::MetadataTooLarge
        | Reason::RequestInvalid => ErrorKind::InvalidArgument,
        Reason::SessionNotFound | Reason::LockNotFound => ErrorKind::NotFound,
        Reason::SecretMismatch | Reason::NotHolder => ErrorKind::PermissionDenied,
        Reason::TokenMismatch
        | Reason::RequestIdReused
        | Reason::Superseded
        | Reason::KindMismatch
        | Reason::UpgradeRefused
        | Reason::ChangeRefused => ErrorKind::Conflict,
        Reason::BarrierBroken => ErrorKind::Broken,
        Reason::StoreUnavailable | Reason::ViewStale | Reason::Draining => ErrorKind::Unavailable,
        Reason::OutcomeUnknown => ErrorKind::Unknown,
        Reason::StoreFull | Reason::SlowConsumer | Reason::LimitReached => {
            ErrorKind::ResourceExhausted
        }
        Reason::ProtocolViolation | Reason::Unspecified => ErrorKind::Protocol,
        Reason::Internal => ErrorKind::Internal,
    }
}

fn kind_of_code(code: Code) -> ErrorKind {
    match code {
        Code::InvalidArgument | Code::OutOfRange => ErrorKind::InvalidArgument,
        Code::NotFound => ErrorKind::NotFound,
        Code::AlreadyExists | Code::FailedPrecondition | Code::Aborted => ErrorKind::Conflict,
        Code::PermissionDenied | Code::Unauthenticated => ErrorKind::PermissionDenied,
        Code::ResourceExhausted => ErrorKind::ResourceExhausted,
        Code::Unavailable => ErrorKind::Unavailable,
        // Not the caller's deadline, which the client keeps itself: a server or a proxy gave up.
        Code::DeadlineExceeded | Code::Cancelled | Code::Unknown => ErrorKind::Unknown,
        Code::Unimplemented => ErrorKind::Protocol,
        Code::Internal | Code::DataLoss => ErrorKind::Internal,
        Code::Ok => ErrorKind::Protocol,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn the_stable_reason_decides_not_the_code() {
        let mut details =
            ErrorDetails::with_error_info("TOKEN_MISMATCH", ERROR_DOMAIN, HashMap::new());
        details.set_retry_info(Some(Duration::from_millis(500)));
        let status = Status::with_error_details(Code::FailedPrecondition, "moved on", details);
        let fault = Fault::from_status(status);
        assert_eq!(fault.kind, ErrorKind::Conflict);
        assert_eq!(fault.reason, Some(Reason::TokenMismatch));
        assert_eq!(fault.retry_after, Some(Duration::from_millis(500)));
        assert!(!fault.may_have_applied);
    }

    #[test]
    fn a_reason_of_another_domain_is_not_ours() {
        let details = ErrorDetails::with_error_info("DRAINING", "example.com", HashMap::new());
        let status = Status::with_error_details(Code::NotFound, "no", details);
        assert_eq!(Fault::from_status(status).kind, ErrorKind::NotFound);
    }

    #[test]
    fn a_plain_unavailable_may_have_been_applied() {
        let fault = Fault::from_status(Status::unavailable("proxy"));
        assert!(fault.may_have_applied);
        assert!(fault.is_transient());
    }
}
