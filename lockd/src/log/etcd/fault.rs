//! What a failed call means: it was refused, it was never sent, or it may have been applied.

use std::error::Error as _;

use etcd_client::Error;

use crate::log::LogError;

/// Why an attempt failed.
#[derive(Debug)]
pub(super) enum Fault {
    /// etcd refused it. Not applied.
    Refused(EtcdRefusal),
    /// It did not reach a member. Not applied.
    NotSent(String),
    /// It may have been applied, or may be applied later.
    Unknown(String),
}

/// Why etcd refused a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum EtcdRefusal {
    /// The NOSPACE alarm is raised.
    Full(String),
    /// The lease is gone.
    LeaseNotFound,
    /// What was asked for is older than what etcd keeps.
    Compacted,
    /// A message was larger than allowed.
    TooLarge(String),
    /// Anything else, which another attempt does not mend: permissions, arguments, limits.
    Other(String),
}

impl From<EtcdRefusal> for LogError {
    fn from(refusal: EtcdRefusal) -> Self {
        match refusal {
            EtcdRefusal::Full(text) => Self::Full(text),
            EtcdRefusal::LeaseNotFound => {
                Self::Unavailable("the replica's lease is gone".to_owned())
            }
            EtcdRefusal::Compacted => Self::Unavailable("etcd has compacted it".to_owned()),
            EtcdRefusal::TooLarge(text) | EtcdRefusal::Other(text) => {
                Self::Broken(format!("etcd refused: {text}"))
            }
        }
    }
}

// The codes of gRPC, which etcd-client passes on as those of a crate that only the gRPC layer names.
const INVALID_ARGUMENT: i32 = 3;
const NOT_FOUND: i32 = 5;
const PERMISSION_DENIED: i32 = 7;
const RESOURCE_EXHAUSTED: i32 = 8;
const FAILED_PRECONDITION: i32 = 9;
const OUT_OF_RANGE: i32 = 11;
const UNIMPLEMENTED: i32 = 12;
const UNAUTHENTICATED: i32 = 16;

/// Sorts an error. What is not known to be harmless is taken for unknown.
pub(super) fn classify(error: &Error) -> Fault {
    let text = describe(error);
    let status = match error {
        Error::GRpcStatus(status) => status,
        Error::LeaseKeepAliveError(why) if why.contains("not found") => {
            return Fault::Refused(EtcdRefusal::LeaseNotFound);
        }
        Error::TransportError(_) | Error::IoError(_) => return Fault::NotSent(text),
        Error::InvalidArgs(_) | Error::InvalidUri(_) => {
            return Fault::Refused(EtcdRefusal::Other(text));
        }
        _ => return Fault::Unknown(text),
    };
    if status.source().is_some() {
        // Made on this side, from an error of the connection, whatever its code: a connection that is
        // closed for too many pings has the code of a lack of space.
        return if never_connected(status) { Fault::NotSent(text) } else { Fault::Unknown(text) };
    }
    match i32::from(status.code()) {
        NOT_FOUND if text.contains("lease not found") => Fault::Refused(EtcdRefusal::LeaseNotFound),
        RESOURCE_EXHAUSTED if text.contains("space exceeded") => {
            Fault::Refused(EtcdRefusal::Full(text))
        }
        RESOURCE_EXHAUSTED if text.contains("too many requests") => Fault::NotSent(text),
        RESOURCE_EXHAUSTED => Fault::Refused(EtcdRefusal::TooLarge(text)),
        OUT_OF_RANGE if text.contains("compacted") => Fault::Refused(EtcdRefusal::Compacted),
        OUT_OF_RANGE if text.contains("message length too large") => {
            Fault::Refused(EtcdRefusal::TooLarge(text))
        }
        // Another member leads: the next attempt will find it.
        FAILED_PRECONDITION if text.contains("not leader") => Fault::Unknown(text),
        // The permissions have changed: the client logs in anew.
        INVALID_ARGUMENT if text.contains("revision of auth store is old") => Fault::NotSent(text),
        INVALID_ARGUMENT | NOT_FOUND | PERMISSION_DENIED | FAILED_PRECONDITION | OUT_OF_RANGE
        | UNIMPLEMENTED | UNAUTHENTICATED => Fault::Refused(EtcdRefusal::Other(text)),
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use etcd_client::{Client, ConnectOptions};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    async fn put(port: u16) -> Error {
        let options = ConnectOptions::new().with_timeout(Duration::from_secs(5));
        let url = format!("http://127.0.0.1:{port}");
        let mut client = Client::connect([url], Some(options)).await.unwrap();
        client.put("k", "v", None).await.unwrap_err()
    }

    /// It has the code of a lack of space, and may have been applied.
    #[tokio::test]
    async fn a_connection_that_is_closed_for_too_many_requests_is_no_refusal() {
        const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        // No stream was the last one, and the reason is ENHANCE_YOUR_CALM.
        const GO_AWAY: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 11];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(&SETTINGS).await.unwrap();
            let mut read = Vec::new();
            while !read.windows(3).any(|window| window == b"\x01kv" || window == b"\x01k\x12") {
                let mut some = [0; 1024];
                let length = stream.read(&mut some).await.unwrap();
                assert!(length > 0, "the call ended");
                read.extend_from_slice(&some[..length]);
            }
            stream.write_all(&GO_AWAY).await.unwrap();
            stream
        };
        let (error, _open) = tokio::join!(put(port), server);
        let code = i32::from(match &error {
            Error::GRpcStatus(status) => status.code(),
            other => panic!("{other:?}"),
        });
        assert_eq!(code, RESOURCE_EXHAUSTED);
        let fault = classify(&error);
        assert!(matches!(fault, Fault::Unknown(_)), "{fault:?} of {error:?}");
    }

    #[tokio::test]
    async fn a_port_that_refuses_was_sent_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let fault = classify(&put(port).await);
        assert!(matches!(fault, Fault::NotSent(_)), "{fault:?}");
    }
}
