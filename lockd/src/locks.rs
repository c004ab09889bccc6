//! Locks for callers without a stream: one call, one answer.

mod waiter;

use std::time::Duration;

use lockd_proto::{FencingToken, RequestId, SessionId};
use tokio::sync::oneshot;
pub use waiter::Acquired;
use waiter::Waiter;

use crate::{
    engine::Engine,
    error::Error,
    keys::{self, EntryId, LockId},
    requests::{Acquire, Released},
    sessions::Credential,
    store::{Delete, Guard, Note, Op, Outcome, Revision},
    view::Described,
};

/// How long a release, cancel or forced release waits for the store.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

impl Engine {
    /// Acquires a lock for a session. A caller that goes away drops the future: the entry is
    /// then taken out by a task of its own.
    ///
    /// # Errors
    /// The session is not the caller's, or the store fails.
    pub async fn acquire(&self, by: &Credential, acquire: Acquire) -> Result<Acquired, Error> {
        if let Some(error) = self.not_ready() {
            return Err(error);
        }
        let session = self.sessions.prove(by).await?;
        let (caller, answer) = oneshot::channel();
        let waiter = Waiter::new(self.clone(), &session, acquire);
        self.tasks.spawn("unary acquire", waiter.run(caller));
        // The task answers before it ends, unless the replica stops first.
        answer.await.unwrap_or(Err(Error::Draining))
    }

    /// Takes the entry of a request out of its queue, waiting or granted.
    ///
    /// # Errors
    /// The session is not the caller's, or the store fails.
    pub async fn cancel(
        &self,
        by: &Credential,
        lock: &LockId,
        request: RequestId,
    ) -> Result<(), Error> {
        let session = self.sessions.prove(by).await?.id;
        let key = keys::entry(lock, EntryId { session, request });
        let delete = Delete { key, guard: Guard::Exists, note: None };
        self.write_in_time(Op::Delete(delete)).await.map(drop)
    }

    /// Releases a granted lock.
    ///
    /// # Errors
    /// The session is not the caller's, the entry is not the session's, or the store fails.
    pub async fn release(
        &self,
        by: &Credential,
        lock: &LockId,
        request: RequestId,
        token: FencingToken,
    ) -> Result<Released, Error> {
        let session = self.sessions.prove(by).await?.id;
        let key = keys::entry(lock, EntryId { session, request });
        let guard = Guard::At(Revision(token.get()));
        match self.write_in_time(Op::Delete(Delete { key, guard, note: None })).await? {
            Outcome::Done(_) => Ok(Released::Released),
            Outcome::Refused(Some(_)) => Err(Error::TokenMismatch { lock: lock.clone(), token }),
            _ if self.belongs_to_another(lock, token, session).await => {
                Err(Error::NotHolder { lock: lock.clone(), token })
            }
            _ => Ok(Released::AlreadyLost),
        }
    }

    async fn belongs_to_another(
        &self,
        lock: &LockId,
        token: FencingToken,
        session: SessionId,
    ) -> bool {
        let entry = self.find(lock, token).await;
        entry.is_some_and(|found| found.entry.id.session != session)
    }

    /// The entry that has a token, as of a view that is at least as new as the token: the
    /// caller may have it from another replica, whose view is ahead of this one's.
    async fn find(&self, lock: &LockId, token: FencingToken) -> Option<Described> {
        // A token from the future was never handed out; after the wait it is not found either.
        drop(self.catch_up(Revision(token.get())).await);
        let entries = self.view.queue(lock)?.entries;
        entries.into_iter().find(|found| found.entry.created == Revision(token.get()))
    }

    /// Takes an entry out of its queue, whoever owns it, and leaves a note for the owner.
    ///
    /// # Errors
    /// No entry has this token any more, or the store fails.
    pub async fn force_release(
        &self,
        lock: &LockId,
        token: FencingToken,
        reason: &str,
    ) -> Result<Described, Error> {
        let moved_on = || Error::TokenMismatch { lock: lock.clone(), token };
        let found = match self.find(lock, token).await {
            Some(found) => found,
            None if self.view.queue(lock).is_none() => {
                return Err(Error::LockNotFound(lock.clone()));
            }
            None => return Err(moved_on()),
        };
        let id = found.entry.id;
        let lease = found.session.as_ref().ok_or_else(moved_on)?.lease;
        let value = reason.as_bytes().to_vec().into();
        let note = Some(Note { key: keys::note(id), value, lease });
        let (key, guard) = (keys::entry(lock, id), Guard::At(found.entry.created));
        match self.write_in_time(Op::Delete(Delete { key, guard, note })).await? {
            Outcome::Done(_) => {
                tracing::warn!(%lock, %token, session = %id.session, reason, "released by force");
                Ok(found)
            }
            _ => Err(moved_on()),
        }
    }

    async fn write_in_time(&self, op: Op) -> Result<Outcome, Error> {
        match tokio::time::timeout(WRITE_TIMEOUT, self.write(op)).await {
            Ok(outcome) => outcome.map_err(Error::Store),
            Err(_) => Err(Error::OutcomeUnknown(WRITE_TIMEOUT)),
        }
    }
}
