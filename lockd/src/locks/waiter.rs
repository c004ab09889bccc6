//! One unary acquire, followed to its end whether or not its caller waits for that.

use std::time::Duration;

use prost::Message as _;
use tokio::sync::oneshot;

use super::WRITE_TIMEOUT;
use crate::{
    engine::Engine,
    error::Error,
    keys::{self, EntryId},
    record::EntryRecord,
    requests::{Acquire, Owner, Refusal},
    sessions::Proven,
    store::{Delete, Guard, Op, Outcome, Revision, StoreError},
    view::{Described, Place, Removal, SessionEvent, SessionEvents},
};

/// A waiter hears of its own entry and of what else its session does meanwhile.
const EVENTS: usize = 1024;

/// The end of a unary acquire.
#[derive(Debug)]
pub enum Acquired {
    /// It holds the lock.
    Granted(Revision),
    /// It ended without a grant.
    Refused {
        /// Why.
        refusal: Refusal,
        /// How many were ahead when that was last looked at, and who held the lock.
        ahead: Option<(usize, Described)>,
    },
}

type Answer = Result<Acquired, Error>;

pub(super) struct Waiter {
    engine: Engine,
    owner: Owner,
    acquire: Acquire,
    events: SessionEvents,
}

/// What ended the wait in a queue.
enum Waited {
    Granted,
    Gone(Refusal),
    Leave(Result<Refusal, Error>),
}

impl Waiter {
    pub(super) fn new(engine: Engine, session: &Proven, acquire: Acquire) -> Self {
        let owner = Owner { session: session.id, lease: session.lease };
        let events = engine.view.subscribe(owner.session, EVENTS);
        Self { engine, owner, acquire, events }
    }

    pub(super) async fn run(mut self, mut caller: oneshot::Sender<Answer>) {
        let op = self.acquire.enqueue(&self.owner);
        let engine = self.engine.clone();
        let mut written = std::pin::pin!(engine.write(op));
        let outcome = match tokio::time::timeout(WRITE_TIMEOUT, &mut written).await {
            Ok(outcome) => outcome,
            Err(_) => {
                drop(caller.send(Err(Error::OutcomeUnknown(WRITE_TIMEOUT))));
                (caller, _) = oneshot::channel();
                written.await
            }
        };
        let (token, first) = match self.joined(outcome) {
            Ok(joined) => joined,
            Err(answer) => return drop(caller.send(answer)),
        };
        let waited = if first { Waited::Granted } else { self.wait(&mut caller, token).await };
        self.finish(caller, token, waited).await;
    }

    /// The entry's revision and whether nothing is ahead, or the answer if there is no entry.
    fn joined(&self, outcome: Result<Outcome, StoreError>) -> Result<(Revision, bool), Answer> {
        let refused = |refusal| {
            let ahead = self.engine.view.queue(&self.acquire.lock);
            let ahead = ahead.and_then(|queue| queue.ahead());
            Err(Ok(Acquired::Refused { refusal, ahead }))
        };
        match outcome {
            Ok(Outcome::Enqueued { revision, first }) => Ok((revision, first)),
            Ok(Outcome::Exists(record)) => match EntryRecord::decode(record.value) {
                Ok(stored) if stored.same_request(&self.acquire.record) => {
                    Ok((record.created, false))
                }
                _ => Err(Err(Error::RequestIdReused)),
            },
            Ok(Outcome::Occupied) => refused(Refusal::Busy),
            Ok(Outcome::SessionGone | Outcome::Done(_) | Outcome::Refused(_)) => {
                Err(Err(Error::SessionNotFound(self.owner.session)))
            }
            Err(error) => Err(Err(Error::Store(error))),
        }
    }

    async fn wait(&mut self, caller: &mut oneshot::Sender<Answer>, token: Revision) -> Waited {
        match self.engine.view.place(&self.acquire.lock, token) {
            Place::Held => return Waited::Granted,
            Place::Gone => return Waited::Gone(Refusal::Forced),
            Place::Waiting { .. } | Place::NotSeen => {}
        }
        // A retried try finds its own entry here, and is as little inclined to wait for it.
        let mut deadline = std::pin::pin!(sleep(self.acquire.max_wait));
        let drain = self.engine.drain.clone();
        loop {
            // Every arm is cancel safe.
            let event = tokio::select! {
                () = caller.closed() => return Waited::Leave(Ok(Refusal::Cancelled)),
                () = &mut deadline => return Waited::Leave(Ok(Refusal::WaitExpired)),
                () = drain.cancelled() => return Waited::Leave(Err(Error::Draining)),
                event = self.events.recv() => event,
            };
            match event {
                Some(SessionEvent::Granted { token: granted, .. }) if granted == token => {
                    return Waited::Granted;
                }
                Some(SessionEvent::Removed { token: removed, cause, .. }) if removed == token => {
                    return Waited::Gone(match cause {
                        Removal::BySession => Refusal::Cancelled,
                        Removal::Forced { .. } => Refusal::Forced,
                    });
                }
                Some(SessionEvent::Ended) => {
                    return Waited::Leave(Err(Error::SessionNotFound(self.owner.session)));
                }
                Some(_) => {}
                None => return Waited::Leave(Err(Error::SlowConsumer)),
            }
        }
    }

    async fn finish(&self, caller: oneshot::Sender<Answer>, token: Revision, waited: Waited) {
        let ahead = match self.engine.view.place(&self.acquire.lock, token) {
            Place::Waiting { ahead, holder } => Some((ahead, holder)),
            Place::Held | Place::Gone | Place::NotSeen => None,
        };
        match waited {
            Waited::Granted => {
                // A caller that has gone does not want it any more.
                if caller.send(Ok(Acquired::Granted(token))).is_err() {
                    self.remove(token).await;
                }
            }
            Waited::Gone(refusal) => drop(caller.send(Ok(Acquired::Refused { refusal, ahead }))),
            Waited::Leave(why) => {
                self.remove(token).await;
                drop(caller.send(why.map(|refusal| Acquired::Refused { refusal, ahead })));
            }
        }
    }

    async fn remove(&self, token: Revision) {
        let id = EntryId { session: self.owner.session, request: self.acquire.request };
        let key = keys::entry(&self.acquire.lock, id);
        let delete = Delete { key, guard: Guard::At(token), note: None };
        if let Err(error) = self.engine.write(Op::Delete(delete)).await {
            tracing::error!(lock = %self.acquire.lock, %error, "an entry stays until its session ends");
        }
    }
}

async fn sleep(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}
