//! What a failed call means: was it refused, never sent, or perhaps applied.

use std::error::Error as _;

use etcd_client::Error;

use crate::store::StoreError;

/// Why an attempt failed.
#[derive(Debug)]
pub(super) enum Fault {
    /// etcd said no, and will say so again. Not applied.
    Refused(StoreError),
    /// It did not reach a member. Not applied.
    NotSent(String),
    /// Nobody knows whether it was, or will be, applied.
    Unknown(String),
}

// The codes of gRPC, which etcd-client passes on as those of a crate that only the gRPC layer
// names.
const PERMISSION_DENIED: i32 = 7;
const INVALID_ARGUMENT: i32 = 3;
const NOT_FOUND: i32 = 5;
const RESOURCE_EXHAUSTED: i32 = 8;
const FAILED_PRECONDITION: i32 = 9;
const OUT_OF_RANGE: i32 = 11;
const UNIMPLEMENTED: i32 = 12;
const UNAUTHENTICATED: i32 = 16;

/// Sorts an error. What is not known to be harmless is taken for unknown.
pub(super) fn classify(error: &Error) -> Fault {
    let text = describe(error);
    let broken = |text| Fault::Refused(StoreError::Broken(format!("etcd refused: {text}")));
    let status = match error {
        Error::GRpcStatus(status) => status,
        Error::LeaseKeepAliveError(why) if why.contains("not found") => {
            return Fault::Refused(StoreError::LeaseNotFound);
        }
        Error::TransportError(_) | Error::IoError(_) => return Fault::NotSent(text),
        Error::InvalidArgs(_) | Error::InvalidUri(_) => return broken(text),
        _ => return Fault::Unknown(text),
    };
    match i32::from(status.code()) {
        NOT_FOUND if text.contains("lease not found") => Fault::Refused(StoreError::LeaseNotFound),
        RESOURCE_EXHAUSTED if text.contains("space exceeded") => {
            Fault::Refused(StoreError::Full(text))
        }
        RESOURCE_EXHAUSTED if text.contains("too many requests") => Fault::NotSent(text),
        // Another member leads: the next attempt will find it.
        FAILED_PRECONDITION if text.contains("not leader") => Fault::Unknown(text),
        INVALID_ARGUMENT | NOT_FOUND | PERMISSION_DENIED | RESOURCE_EXHAUSTED
        | FAILED_PRECONDITION | OUT_OF_RANGE | UNIMPLEMENTED | UNAUTHENTICATED => broken(text),
        _ if never_connected(status) => Fault::NotSent(text),
        _ => Fault::Unknown(text),
    }
}

/// Whether a call failed for want of a connection, and so never left.
fn never_connected(status: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        let refused = error
            .downcast_ref::<std::io::Error>()
            .is_some_and(|io| io.kind() == std::io::ErrorKind::ConnectionRefused);
        if refused || error.to_string().contains("connect error") {
            return true;
        }
        cause = error.source();
    }
    false
}

fn describe(error: &Error) -> String {
    match error {
        Error::GRpcStatus(status) => match status.source() {
            Some(source) => format!("{}: {source}", status.message()),
            None => status.message().to_owned(),
        },
        error => error.to_string(),
    }
}
