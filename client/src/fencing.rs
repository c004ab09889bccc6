//! Fencing: what is sent to a resource, so that it rejects a client that no longer holds the lock.

use lockd_proto::{FencingToken, v1::mode::Mode};

use crate::{
    error::{ErrorKind, Fault},
    guard::Guard,
};

/// What a guard's writes are fenced by.
#[derive(Debug, Clone)]
pub(crate) struct Fencing {
    /// The locks, each with its namespace: what the resource keeps a token for.
    pub(crate) resources: Vec<String>,
    pub(crate) token: FencingToken,
}

impl Guard {
    /// What its writes are fenced by. An older token is refused, so only a lock that has one holder
    /// at a time can fence.
    pub(crate) fn fencing(&self) -> Result<Fencing, Fault> {
        let parts = self.parts();
        match parts.mode {
            Mode::Exclusive(_) | Mode::Once(_) => {}
            Mode::Shared(_) | Mode::Permits(_) | Mode::Party(_) | Mode::Share(_) => {
                let message = "several hold this lock at once, and the latest of them would fence \
                               out the others: only an exclusive lock can fence";
                return Err(Fault::new(ErrorKind::InvalidArgument, message));
            }
        }
        let namespace = &parts.client.shared().namespace;
        let resources = parts.names.iter().map(|name| format!("{namespace}/{name}")).collect();
        Ok(Fencing { resources, token: self.token() })
    }
}
