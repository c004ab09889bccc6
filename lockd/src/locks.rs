//! Locks for callers without a stream: one call, one answer.

mod follower;
mod update;

use std::{sync::Arc, time::Duration};

use follower::Follower;
use lockd_proto::{FencingToken, RequestId, SessionId};
use prost::Message as _;
use tokio::sync::oneshot;
pub use update::Change;

use crate::{
    engine::Engine,
    error::Error,
    keys::{self, EntryId, LockId},
    metrics,
    mode::Mode,
    record::{EntryRecord, Mark, NoteRecord},
    requests::{Acquire, Action, LossCause, Owner, Released, Reply, Requests},
    sessions::{Credential, Proven},
    store::{Delete, Guard, Note, Op, Outcome, Revision},
    view::{Described, Entry, Place},
};

/// What the owner of an entry is told that was taken out by force.
fn forced(reason: &str) -> NoteRecord {
    NoteRecord { text: reason.to_owned(), deadlock: None }
}

/// How long a release, cancel or forced release waits for the store.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

impl Engine {
    /// Acquires locks for a session: the reply is `Granted`, `Refused` or `Failed`. A caller
    /// that goes away drops the future: the entry is then taken out by a task of its own.
    ///
    /// # Errors
    /// The session is not the caller's, or the store fails.
    pub async fn acquire(&self, by: &Credential, acquire: Acquire) -> Result<Reply, Error> {
        if let Some(error) = self.not_ready() {
            return Err(error);
        }
        let session = self.sessions.prove(by).await?;
        let (id, max_wait) = (acquire.request, acquire.max_wait);
        let record = EntryRecord { follower: follower::mark()?, ..(*acquire.record).clone() };
        let acquire = Acquire { record: Arc::new(record), ..acquire };
        self.traces.asked(session.id, &acquire);
        let start = |requests: &mut Requests| requests.acquire(acquire, &self.view);
        let reply = self.follow(&session, id, max_wait, start).await?;
        metrics::told(&reply);
        Ok(reply)
    }

    /// Follows a request in a task of its own, from what `start` does to its end.
    async fn follow(
        &self,
        session: &Proven,
        id: RequestId,
        max_wait: Option<Duration>,
        start: impl FnOnce(&mut Requests) -> Vec<Action>,
    ) -> Result<Reply, Error> {
        let (caller, answer) = oneshot::channel();
        let owner = Owner { session: session.id, lease: session.lease };
        let mut follower = Follower::new(self.clone(), owner, id, caller);
        let actions = start(follower.requests());
        self.tasks.spawn("unary request", follower.run(actions, max_wait));
        // The task answers before it ends, unless the replica stops first.
        answer.await.unwrap_or(Err(Error::Draining))
    }

    /// Takes the entry of a request out of its queues, waiting or granted.
    ///
    /// # Errors
    /// The session is not the caller's, or the store fails.
    pub async fn cancel(
        &self,
        by: &Credential,
        lock: &LockId,
        request: RequestId,
    ) -> Result<(), Error> {
        let session = self.sessions.prove(by).await?;
        let Some(entry) = self.own_entry(&session, lock, request).await? else {
            return Ok(());
        };
        let start = |requests: &mut Requests| {
            let mut actions = requests.adopt(&entry, &self.view);
            actions.extend(requests.cancel(request, &self.view));
            actions
        };
        match self.follow(&session, request, None, start).await? {
            Reply::Failed(error) => Err(*error),
            _ => Ok(()),
        }
    }

    /// Releases a granted lock, and all others that were acquired with it. A party's release
    /// ends when all have left.
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
        let session = self.sessions.prove(by).await?;
        let Some(entry) = self.own_entry(&session, lock, request).await? else {
            if self.belongs_to_another(lock, token, session.id).await {
                metrics::fenced();
                return Err(Error::NotHolder { lock: lock.clone(), token });
            }
            return Ok(Released::AlreadyLost);
        };
        if entry.created != Revision(token.get()) {
            metrics::fenced();
            return Err(Error::TokenMismatch { lock: lock.clone(), token });
        }
        // Another call waits by this entry, and is to be left alone.
        if let Place::Waiting(_) | Place::NotSeen = self.view.place(lock, entry.created) {
            return Err(Error::StillWaiting);
        }
        let start = |requests: &mut Requests| {
            let mut actions = requests.adopt(&entry, &self.view);
            actions.extend(requests.release(request, &self.view));
            actions
        };
        match self.follow(&session, request, None, start).await? {
            Reply::Released(released) => Ok(released),
            Reply::Lost { cause: LossCause::Broken, .. } => Err(Error::BarrierBroken(lock.clone())),
            Reply::Failed(error) => Err(*error),
            _ => Ok(Released::AlreadyLost),
        }
    }

    /// The entry that a request of a session has made. What the view has not seen yet is
    /// looked up in the store.
    async fn own_entry(
        &self,
        session: &Proven,
        lock: &LockId,
        request: RequestId,
    ) -> Result<Option<Arc<Entry>>, Error> {
        let id = EntryId { session: session.id, request };
        if let Some(entry) = self.view.entry(id, lock) {
            return Ok(Some(entry));
        }
        let record = self.store.get(keys::entry(lock, id)).await.map_err(Error::Store)?;
        let Some(record) = record else { return Ok(None) };
        self.catch_up(record.modified).await?;
        Ok(self.view.entry(id, lock))
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
        self.view.entry_at(lock, Revision(token.get()))
    }

    /// Takes an entry out of its queues, whoever owns it, and leaves a note for the owner.
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
            None if self.view.len(lock) == 0 => return Err(Error::LockNotFound(lock.clone())),
            None => return Err(moved_on()),
        };
        let entry = &found.entry;
        if let Mode::Party { .. } = entry.mode {
            // The others have to see it.
            self.rewrite(lock, entry, |record| record.mark = Mark::Gone.into()).await?;
            return Ok(found);
        }
        // Nobody is there to read a note about what has outlived its session.
        let note = found.session.as_ref().map(|session| Note {
            key: keys::note(entry.id),
            value: forced(reason).encode_to_vec().into(),
            lease: session.lease,
        });
        let keys = keys::entries(&entry.locks, entry.id);
        let keys = keys.map(|key| (key, Guard::Made(entry.created))).collect();
        match self.write_in_time(Op::Delete(Delete { note, ..Delete::new(keys) })).await? {
            Outcome::Done(_) => {
                let session = entry.id.session;
                tracing::warn!(%lock, %token, %session, reason, "released by force");
                Ok(found)
            }
            _ => Err(moved_on()),
        }
    }

    /// Deletes the result of a once, and says whether there was one.
    ///
    /// # Errors
    /// The store fails.
    pub async fn forget_once(&self, lock: &LockId) -> Result<bool, Error> {
        let keys = vec![(keys::result(lock), Guard::Exists)];
        match self.write_in_time(Op::Delete(Delete::new(keys))).await? {
            // Whoever asks here next is to find it forgotten.
            Outcome::Done(revision) => self.catch_up(revision).await.map(|()| true),
            _ => Ok(false),
        }
    }

    /// Asks the holders of a lock to give it up, and says whom.
    ///
    /// # Errors
    /// Nobody holds it, it can't be given up, or the store fails.
    pub async fn request_yield(
        &self,
        lock: &LockId,
        reason: &str,
    ) -> Result<Vec<Described>, Error> {
        if self.view.len(lock) == 0 {
            // Whoever asks may know of a grant that the view has not seen yet.
            let first = self.store.first(keys::queue(lock)).await.map_err(Error::Store)?;
            let first = first.ok_or_else(|| Error::LockNotFound(lock.clone()))?;
            self.catch_up(first.modified).await?;
        }
        let queue = self.view.queue(lock).ok_or_else(|| Error::LockNotFound(lock.clone()))?;
        let holders = queue.entries.into_iter().take(queue.held);
        let mut asked = Vec::new();
        for holder in holders {
            if matches!(holder.entry.mode, Mode::Party { .. } | Mode::Share(_)) {
                let problem = "the parties of a barrier and the shares of a group do not yield";
                return Err(Error::ChangeRefused(problem));
            }
            let change = |record: &mut EntryRecord| {
                reason.clone_into(&mut record.yield_reason);
            };
            match self.rewrite(lock, &holder.entry, change).await {
                Ok(()) => asked.push(holder),
                // Gone in the meantime, which is what was wanted.
                Err(Error::ChangeRefused(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(asked)
    }

    /// Changes an entry that holds its lock.
    ///
    /// # Errors
    /// The session is not the caller's, the entry does not hold the lock, the change does not
    /// apply to it, or the store fails.
    pub async fn update(
        &self,
        by: &Credential,
        lock: &LockId,
        request: RequestId,
        change: Change,
    ) -> Result<(), Error> {
        let session = self.sessions.prove(by).await?;
        let entry = self.own_entry(&session, lock, request).await?;
        let held = |entry: &Arc<Entry>| matches!(self.view.place(lock, entry.created), Place::Held);
        let Some(entry) = entry.filter(held) else {
            return Err(Error::ChangeRefused("the lock is not held by this request"));
        };
        let Change::Result(result) = change else {
            return self.change(lock, &entry, change).await;
        };
        let start = |requests: &mut Requests| {
            let mut actions = requests.adopt(&entry, &self.view);
            actions.extend(requests.complete(request, result));
            actions
        };
        match self.follow(&session, request, None, start).await? {
            Reply::Updated => Ok(()),
            Reply::Failed(error) => Err(*error),
            _ => Err(Error::ChangeRefused("the lock was lost before: nothing was stored")),
        }
    }

    async fn write_in_time(&self, op: Op) -> Result<Outcome, Error> {
        match tokio::time::timeout(WRITE_TIMEOUT, self.write(op)).await {
            Ok(outcome) => outcome.map_err(Error::Store),
            Err(_) => Err(Error::OutcomeUnknown(WRITE_TIMEOUT)),
        }
    }
}
