//! What a session is known by. The client makes it before any server knows of the session, so that
//! an open that is sent again finds the session that the first one made.

use std::fmt;

use lockd_proto::{SessionId, clock::Instant, v1};

use crate::error::Fault;

/// How many random bytes a secret has.
const SECRET_BYTES: usize = 32;

/// A session's id and secret, from its first open to its end.
pub(crate) struct Identity {
    id: SessionId,
    secret: String,
    /// How many streams were numbered.
    streams: u64,
    /// Until when a session that was asked for, and never answered for, may have entries.
    pub(super) over_at: Instant,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, streams, .. } = self;
        f.debug_struct("Identity").field("id", id).field("streams", streams).finish_non_exhaustive()
    }
}

impl Identity {
    pub(crate) fn random(now: Instant) -> Result<Self, Fault> {
        let mut secret = [0; SECRET_BYTES];
        getrandom::fill(&mut secret)
            .map_err(|error| Fault::unavailable(format!("no random bytes: {error}")))?;
        let (id, secret) = (SessionId::random(), hex::encode(secret));
        Ok(Self { id, secret, streams: 0, over_at: now })
    }

    pub(super) fn id(&self) -> SessionId {
        self.id
    }

    /// For the next attempt to attach. Numbers only grow, so that the server can tell what an
    /// earlier stream still had under way.
    pub(super) fn next_stream(&mut self) -> v1::SessionCredential {
        self.streams += 1;
        v1::SessionCredential { stream: self.streams, ..self.unnumbered() }
    }

    /// For unary calls.
    pub(crate) fn unnumbered(&self) -> v1::SessionCredential {
        let (session_id, secret) = (self.id.to_string(), self.secret.clone());
        v1::SessionCredential { session_id, secret, stream: 0 }
    }
}

#[cfg(test)]
mod tests {
    use lockd_proto::clock::Clock;

    use super::*;

    #[test]
    fn streams_are_counted_from_one_and_the_secret_is_never_shown() {
        let mut identity = Identity::random(Clock::system().now()).unwrap();
        let (first, second) = (identity.next_stream(), identity.next_stream());
        assert_eq!((first.stream, second.stream), (1, 2));
        assert_eq!(first.session_id, second.session_id);
        assert_eq!((first.secret.len(), &first.secret), (64, &second.secret));
        assert!(!format!("{identity:?}").contains(&first.secret));
    }
}
