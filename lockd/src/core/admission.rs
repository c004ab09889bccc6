//! What this replica takes: sessions that are there and whose secret fits, and as much as its limits allow.

use lockd_proto::SessionId;
use subtle::ConstantTimeEq as _;

use super::{Core, ask::Acquire, error::Error, look::Waiting, tickets::Ticket};
use crate::{
    log::{Log, LogError, MAX_OPERATIONS},
    record::{Enqueue, LockId, Mode, Operation, Position, Wait},
    telemetry::metrics,
};

impl<L: Log> Core<L> {
    /// Whether a session of this id may be opened: there is room for another one, or it is there already.
    pub(super) fn may_open(&self, session: SessionId, secret: &[u8; 32]) -> Result<(), Error> {
        self.has_read()?;
        if let Some(error) = self.not_ready() {
            return Err(error);
        }
        if self.state.session(session).is_some() {
            return self.is_known(session, secret);
        }
        let limit = self.parts.limits.sessions;
        if self.state.counts().sessions + self.calls.opening() >= limit {
            return Err(Error::TooManySessions { limit });
        }
        Ok(())
    }

    /// Whether anything was read from the log yet.
    pub(super) fn has_read(&self) -> Result<(), Error> {
        match self.me {
            Some(_) => Ok(()),
            None => {
                let why = "nothing was read from the log yet".to_owned();
                Err(Error::Log(LogError::Unavailable(why)))
            }
        }
    }

    /// Whether a session is there, and this is its secret.
    pub(super) fn is_known(&self, session: SessionId, secret: &[u8; 32]) -> Result<(), Error> {
        self.has_read()?;
        if self.draining {
            return Err(Error::Draining);
        }
        let there = self.state.session(session).ok_or(Error::SessionNotFound(session))?;
        if !bool::from(there.secret_hash.ct_eq(secret)) {
            return Err(Error::SecretMismatch(session));
        }
        Ok(())
    }

    /// Whether the log is as long as a client knows it to be: else it was restored (RULES T10).
    pub(super) fn reaches(&self, durable: Position) -> Result<(), Error> {
        self.has_read()?;
        // A record of a shared log has places that no operation takes.
        let end = Position(self.state.position().0 | (MAX_OPERATIONS as u64 - 1));
        if durable <= end { Ok(()) } else { Err(Error::LogRestored { durable, end }) }
    }

    /// Says that the log was restored. What a client sends stops no replica (RULES J17).
    pub(super) fn note_restored(&mut self, error: &Error) {
        if let Error::LogRestored { .. } = error {
            metrics::restored();
            if !std::mem::replace(&mut self.is_restored, true) {
                tracing::error!(%error, "the log was restored, or has lost its end: fencing tokens may repeat");
            }
        }
    }

    /// Why this replica does not take an acquire, if so. A retry finds its entry, whatever else there is
    /// by now.
    pub(super) fn obstacle(&self, session: SessionId, acquire: &Acquire) -> Option<Error> {
        if let Some(error) = self.not_ready() {
            return Some(error);
        }
        let limits = self.parts.limits;
        let limit = limits.entries_per_session;
        let there = self.state.session(session);
        if there.is_some_and(|there| there.entries_len() >= limit)
            && self.state.entry_of(session, acquire.request).is_none()
        {
            return Some(Error::TooManyEntries { limit });
        }
        let limit = limits.waiters_per_lock;
        let full = |lock: &&LockId| self.state.queue_len(lock) >= limit;
        let lock = acquire.locks.iter().find(full)?.clone();
        let retry = self.state.entry_of(session, acquire.request).is_some();
        (!retry).then_some(Error::TooManyWaiters { lock, limit })
    }

    /// Whether a message by this stream has nothing older before it on its way to the log: a session that is
    /// not attached by it is attached ahead of it.
    pub(super) fn is_reached_by(&self, session: SessionId, stream: u64) -> bool {
        let there = self.state.session(session).zip(self.me);
        there.is_some_and(|(there, me)| there.is_reached_by(me, stream))
    }

    /// Proposes an entry. A try for what is taken is answered from the state once that is known to be
    /// recent: it costs no write.
    pub(super) fn enqueue(&mut self, enqueue: Enqueue, ticket: Ticket) {
        if self.is_hopeless(&enqueue) {
            self.looks.wait(Waiting::Try(Box::new(enqueue), ticket));
        } else {
            self.propose(Operation::Enqueue(Box::new(enqueue)), ticket);
        }
    }

    /// Whether the state says that a try is in vain. What the session may still have under way says nothing.
    pub(super) fn is_hopeless(&self, enqueue: &Enqueue) -> bool {
        enqueue.wait == Wait::Not
            && enqueue.mode != Mode::Once
            && self.is_reached_by(enqueue.session, enqueue.stream)
            && self.state.entry_of(enqueue.session, enqueue.request).is_none()
            && enqueue.locks.iter().all(|lock| self.state.is_of_kind(lock, enqueue.mode.kind()))
            && !enqueue.locks.iter().all(|lock| self.state.would_grant(lock, enqueue.mode))
    }
}
