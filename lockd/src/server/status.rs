//! The one map from errors to answers: gRPC code, stable reason, and whether a retry helps.

use std::{collections::HashMap, time::Duration};

use lockd_proto::{
    ERROR_DOMAIN,
    v1::{Failure, Reason},
};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::translate::to_wire_duration;
use crate::{core::error::Error, log::LogError};

/// How long a client should wait before it tries again what the store or replica could not
/// do at this moment.
const RETRY_AFTER: Duration = Duration::from_millis(500);

struct StatusParts {
    code: Code,
    reason: Reason,
    retry_after: Option<Duration>,
}

fn answer(error: &Error) -> StatusParts {
    let (code, reason) = code_and_reason(error);
    let retry_after = match code {
        Code::Unavailable | Code::ResourceExhausted => Some(RETRY_AFTER),
        _ => None,
    };
    StatusParts { code, reason, retry_after }
}

fn code_and_reason(error: &Error) -> (Code, Reason) {
    match error {
        Error::Name(_) => (Code::InvalidArgument, Reason::NameInvalid),
        Error::Ttl(_) => (Code::OutOfRange, Reason::TtlOutOfRange),
        Error::Metadata(_) => (Code::InvalidArgument, Reason::MetadataTooLarge),
        Error::Id(_) | Error::Invalid { .. } => (Code::InvalidArgument, Reason::RequestInvalid),
        Error::SessionNotFound(_) | Error::LogRestored { .. } => {
            (Code::NotFound, Reason::SessionNotFound)
        }
        Error::SecretMismatch(_) => (Code::PermissionDenied, Reason::SecretMismatch),
        Error::NotHolder { .. } => (Code::PermissionDenied, Reason::NotHolder),
        Error::TokenMismatch { .. } => (Code::FailedPrecondition, Reason::TokenMismatch),
        Error::RequestIdReused => (Code::AlreadyExists, Reason::RequestIdReused),
        Error::LockNotFound(_) => (Code::NotFound, Reason::LockNotFound),
        Error::Log(LogError::Unavailable(_)) | Error::Restored(_) => {
            (Code::Unavailable, Reason::StoreUnavailable)
        }
        Error::Log(LogError::Full(_)) => (Code::ResourceExhausted, Reason::StoreFull),
        Error::Log(LogError::Broken(_)) | Error::NoRandomness(_) => {
            (Code::Internal, Reason::Internal)
        }
        Error::OutcomeUnknown(_) => (Code::Unavailable, Reason::OutcomeUnknown),
        Error::ViewStale(_) | Error::ViewEmpty => (Code::Unavailable, Reason::ViewStale),
        Error::Draining => (Code::Unavailable, Reason::Draining),
        Error::SlowConsumer => (Code::ResourceExhausted, Reason::SlowConsumer),
        Error::KindMismatch { .. } => (Code::FailedPrecondition, Reason::KindMismatch),
        Error::UpgradeRefused { .. } => (Code::FailedPrecondition, Reason::UpgradeRefused),
        Error::BarrierBroken(_) => (Code::Aborted, Reason::BarrierBroken),
        Error::ChangeRefused(_) => (Code::FailedPrecondition, Reason::ChangeRefused),
        Error::TooManyWaiters { .. }
        | Error::TooManyEntries { .. }
        | Error::TooManySessions { .. } => (Code::ResourceExhausted, Reason::LimitReached),
        Error::Superseded => (Code::Aborted, Reason::Superseded),
        Error::StillWaiting | Error::Protocol(_) => {
            (Code::FailedPrecondition, Reason::ProtocolViolation)
        }
    }
}

/// An error as the status of a unary call.
pub(super) fn to_status(error: &Error) -> Status {
    let StatusParts { code, reason, retry_after } = answer(error);
    let mut details = ErrorDetails::with_error_info(reason.name(), ERROR_DOMAIN, HashMap::new());
    if retry_after.is_some() {
        details.set_retry_info(retry_after);
    }
    Status::with_error_details(code, error.to_string(), details)
}

/// An error as a failure on the session stream.
pub(super) fn to_failure(error: &Error) -> Failure {
    let StatusParts { reason, retry_after, .. } = answer(error);
    Failure {
        reason: reason.into(),
        message: error.to_string(),
        retry_after: retry_after.map(to_wire_duration),
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        to_status(&error)
    }
}
