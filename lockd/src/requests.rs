//! What a session has asked for and not yet let go of: the life of each acquire, as a state
//! machine without I/O or clock.
//!
//! ```text
//! acquire ─► Enqueueing ─► Waiting ─► Held ─► Leaving ─► gone
//!                 └───────────┴── cancel, max_wait ─┘
//! ```
//!
//! Inputs are what the client asks, what became of a write, and what the view saw. Each
//! answers with the [`Action`]s to take. An entry that was submitted is always followed to
//! its end, so that a cancelled acquire leaves nothing behind.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use lockd_proto::{RequestId, SessionId};

use crate::{
    error::Error,
    keys::{self, EntryId, LockId},
    record::EntryRecord,
    store::{Delete, Guard, Op, Outcome, Record, Revision, StoreError},
    view::{Described, Entry, Place, Removal, View},
};

mod enqueue;

pub use enqueue::{Acquire, Owner};

/// The most requests that a session may have open on one stream, held locks included.
pub const MAX_OPEN: usize = 10_000;

/// The open requests of one session.
#[derive(Debug)]
pub struct Requests {
    owner: Owner,
    open: HashMap<RequestId, Open>,
    /// Entries that are gone from the store, and that the view has yet to see leave.
    departed: HashSet<(RequestId, Revision)>,
}

#[derive(Debug)]
struct Open {
    lock: LockId,
    record: Arc<EntryRecord>,
    phase: Phase,
    /// How many were ahead when that was last looked at, and who held the lock.
    ahead: Option<(usize, Described)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The entry is on its way to the store; `leave` is why it is to be taken out at once.
    Enqueueing { leave: Option<Leave> },
    /// The entry is in the queue.
    Waiting { token: Revision },
    /// The client was told that it holds the lock.
    Held { token: Revision },
    /// The entry is on its way out; `seen` when the view has seen it go.
    Leaving { token: Revision, why: Leave, seen: bool },
}

/// Why an entry leaves its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leave {
    Cancelled,
    WaitExpired,
    Released,
}

/// What is to be done next.
#[derive(Debug)]
pub enum Action {
    /// Commit this write and report its outcome with [`Requests::written`].
    Submit(RequestId, Op),
    /// Tell the client.
    Tell(RequestId, Reply),
}

/// What the client is told of a request.
#[derive(Debug, Clone)]
pub enum Reply {
    /// It waits.
    Queued {
        /// How many are ahead, the holder included.
        ahead: usize,
        /// The holder.
        holder: Described,
    },
    /// It holds the lock.
    Granted {
        /// The fencing token.
        token: Revision,
    },
    /// It ended without a grant.
    Refused {
        /// Why.
        refusal: Refusal,
        /// How many were ahead when that was last looked at, and who held the lock.
        ahead: Option<(usize, Described)>,
    },
    /// It failed.
    Failed(Error),
    /// Its release was done.
    Released(Released),
    /// It held the lock, and lost it though the session lives.
    Lost {
        /// The token.
        token: Revision,
        /// Why.
        cause: Removal,
    },
}

/// Why an acquire ended without a grant though nothing failed.
#[derive(Debug, Clone)]
pub enum Refusal {
    /// The lock is held and the caller would not wait.
    Busy,
    /// Its time to wait is over.
    WaitExpired,
    /// The session took it back.
    Cancelled,
    /// An operator took it out.
    Forced,
}

/// What a release found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Released {
    /// The lock was held, and is released.
    Released,
    /// It was lost before.
    AlreadyLost,
}

impl Requests {
    /// No requests yet.
    #[must_use]
    pub fn new(owner: Owner) -> Self {
        Self { owner, open: HashMap::new(), departed: HashSet::new() }
    }

    /// Whose they are.
    #[must_use]
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// Takes over an entry that an earlier stream of the session made.
    pub fn adopt(&mut self, entry: &Entry, standing: Standing) {
        let token = entry.created;
        let phase = match standing {
            Standing::Held => Phase::Held { token },
            Standing::Waiting => Phase::Waiting { token },
        };
        let (lock, record) = (entry.lock.clone(), Arc::new(entry.record.clone()));
        self.open.insert(entry.id.request, Open { lock, record, phase, ahead: None });
    }

    /// The client wants a lock. Asking again with the same id is a retry.
    pub fn acquire(&mut self, acquire: Acquire) -> Vec<Action> {
        let id = acquire.request;
        let failed = |error| vec![Action::Tell(id, Reply::Failed(error))];
        if let Some(open) = self.open.get(&id) {
            if open.lock != acquire.lock || !open.record.same_request(&acquire.record) {
                return failed(Error::RequestIdReused);
            }
            return match open.phase {
                Phase::Held { token } => vec![Action::Tell(id, Reply::Granted { token })],
                Phase::Enqueueing { .. } | Phase::Waiting { .. } | Phase::Leaving { .. } => vec![],
            };
        }
        if self.open.len() >= MAX_OPEN {
            return failed(Error::TooManyRequests { limit: MAX_OPEN });
        }
        let op = acquire.enqueue(&self.owner);
        let phase = Phase::Enqueueing { leave: None };
        let Acquire { lock, record, .. } = acquire;
        self.open.insert(id, Open { lock, record, phase, ahead: None });
        vec![Action::Submit(id, op)]
    }

    /// The client does not want it any more.
    pub fn cancel(&mut self, id: RequestId) -> Vec<Action> {
        self.leave(id, Leave::Cancelled)
    }

    /// The client has waited as long as it wanted to.
    pub fn wait_expired(&mut self, id: RequestId, view: &View) -> Vec<Action> {
        let Some(open) = self.open.get_mut(&id) else {
            return vec![];
        };
        match open.phase {
            Phase::Held { .. } | Phase::Leaving { .. } => return vec![],
            Phase::Enqueueing { .. } => {}
            Phase::Waiting { token } => {
                if let Place::Waiting { ahead, holder } = view.place(&open.lock, token) {
                    open.ahead = Some((ahead, holder));
                }
            }
        }
        self.leave(id, Leave::WaitExpired)
    }

    /// The client gives the lock back.
    pub fn release(&mut self, id: RequestId) -> Vec<Action> {
        match self.open.get(&id).map(|open| open.phase) {
            Some(Phase::Held { .. }) => self.leave(id, Leave::Released),
            Some(Phase::Enqueueing { .. } | Phase::Waiting { .. }) => {
                vec![Action::Tell(id, Reply::Failed(Error::StillWaiting))]
            }
            Some(Phase::Leaving { .. }) => vec![],
            None => vec![Action::Tell(id, Reply::Released(Released::AlreadyLost))],
        }
    }

    fn leave(&mut self, id: RequestId, why: Leave) -> Vec<Action> {
        let Some(open) = self.open.get_mut(&id) else {
            return self.left(id, why, Released::AlreadyLost);
        };
        match open.phase {
            Phase::Enqueueing { ref mut leave } => {
                leave.get_or_insert(why);
                vec![]
            }
            Phase::Waiting { token } | Phase::Held { token } => {
                open.phase = Phase::Leaving { token, why, seen: false };
                vec![Action::Submit(id, dequeue(&open.lock, self.owner.session, id, token))]
            }
            Phase::Leaving { .. } => vec![],
        }
    }

    /// A write came to its end.
    pub fn written(
        &mut self,
        id: RequestId,
        outcome: Result<Outcome, StoreError>,
        view: &View,
    ) -> Vec<Action> {
        match self.open.get(&id).map(|open| open.phase) {
            Some(Phase::Enqueueing { leave }) => self.enqueued(id, leave, outcome, view),
            Some(Phase::Leaving { token, why, seen }) => {
                let unseen = (!seen).then_some(token);
                self.dequeued(id, why, unseen, outcome)
            }
            Some(Phase::Waiting { .. } | Phase::Held { .. }) | None => vec![],
        }
    }

    fn enqueued(
        &mut self,
        id: RequestId,
        leave: Option<Leave>,
        outcome: Result<Outcome, StoreError>,
        view: &View,
    ) -> Vec<Action> {
        let (token, first) = match outcome {
            Ok(Outcome::Enqueued { revision, first }) => (revision, first),
            Ok(Outcome::Exists(record)) => {
                if self.open.get(&id).is_some_and(|open| !made_by(&record, open)) {
                    return self.close(id, Reply::Failed(Error::RequestIdReused));
                }
                (record.created, false)
            }
            Ok(Outcome::Occupied) => {
                if let Some(open) = self.open.get_mut(&id) {
                    open.ahead = view.queue(&open.lock).and_then(|queue| queue.ahead());
                }
                return self.refuse(id, leave.map_or(Refusal::Busy, Leave::refusal));
            }
            Ok(Outcome::SessionGone) => {
                return self.close(id, Reply::Failed(Error::SessionNotFound(self.owner.session)));
            }
            Ok(Outcome::Done(_) | Outcome::Refused(_)) => {
                return self.close(id, Reply::Failed(Error::Protocol("unexpected outcome")));
            }
            Err(error) => return self.close(id, Reply::Failed(Error::Store(error))),
        };
        let Some(open) = self.open.get_mut(&id) else {
            return vec![];
        };
        let place = view.place(&open.lock, token);
        if let Place::Gone = place {
            // Taken out by force before its own write was heard of.
            return self.refuse(id, leave.map_or(Refusal::Forced, Leave::refusal));
        }
        open.phase = Phase::Waiting { token };
        if let Some(why) = leave {
            return self.leave(id, why);
        }
        match place {
            _ if first => self.granted(id, token),
            Place::Held => self.granted(id, token),
            Place::Waiting { ahead, holder } => {
                open.ahead = Some((ahead, holder.clone()));
                vec![Action::Tell(id, Reply::Queued { ahead, holder })]
            }
            Place::NotSeen | Place::Gone => vec![],
        }
    }

    fn dequeued(
        &mut self,
        id: RequestId,
        why: Leave,
        unseen: Option<Revision>,
        outcome: Result<Outcome, StoreError>,
    ) -> Vec<Action> {
        let released = match outcome {
            Ok(Outcome::Done(_)) => Released::Released,
            Ok(_) => Released::AlreadyLost,
            Err(error) => return self.close(id, Reply::Failed(Error::Store(error))),
        };
        self.departed.extend(unseen.map(|token| (id, token)));
        self.left(id, why, released)
    }

    /// The view saw that an entry holds its lock now. One that is not known here was made by
    /// an earlier stream: the client is told, and gives back what it does not want.
    pub fn granted_in_view(
        &mut self,
        id: RequestId,
        lock: &LockId,
        token: Revision,
    ) -> Vec<Action> {
        match self.open.get(&id).map(|open| open.phase) {
            Some(Phase::Waiting { token: waiting }) if waiting == token => self.granted(id, token),
            Some(_) => vec![],
            None if self.departed.contains(&(id, token)) => vec![],
            None => {
                let record = Arc::default();
                let phase = Phase::Held { token };
                self.open.insert(id, Open { lock: lock.clone(), record, phase, ahead: None });
                vec![Action::Tell(id, Reply::Granted { token })]
            }
        }
    }

    /// The view saw that an entry is gone.
    pub fn removed_in_view(
        &mut self,
        id: RequestId,
        token: Revision,
        cause: Removal,
    ) -> Vec<Action> {
        if self.departed.remove(&(id, token)) {
            return vec![];
        }
        match self.open.get(&id).map(|open| open.phase) {
            Some(Phase::Held { token: held }) if held == token => {
                self.close(id, Reply::Lost { token, cause })
            }
            Some(Phase::Waiting { token: waiting }) if waiting == token => {
                let refusal = match cause {
                    Removal::BySession => Refusal::Cancelled,
                    Removal::Forced { .. } => Refusal::Forced,
                };
                self.refuse(id, refusal)
            }
            Some(Phase::Leaving { token: leaving, why, .. }) if leaving == token => {
                if let Some(open) = self.open.get_mut(&id) {
                    open.phase = Phase::Leaving { token, why, seen: true };
                }
                vec![]
            }
            Some(_) | None => vec![],
        }
    }

    fn granted(&mut self, id: RequestId, token: Revision) -> Vec<Action> {
        if let Some(open) = self.open.get_mut(&id) {
            open.phase = Phase::Held { token };
        }
        vec![Action::Tell(id, Reply::Granted { token })]
    }

    /// An entry is out of its queue, as was asked for.
    fn left(&mut self, id: RequestId, why: Leave, released: Released) -> Vec<Action> {
        match why {
            Leave::Released => self.close(id, Reply::Released(released)),
            Leave::Cancelled | Leave::WaitExpired => self.refuse(id, why.refusal()),
        }
    }

    fn refuse(&mut self, id: RequestId, refusal: Refusal) -> Vec<Action> {
        let ahead = self.open.get_mut(&id).and_then(|open| open.ahead.take());
        self.close(id, Reply::Refused { refusal, ahead })
    }

    fn close(&mut self, id: RequestId, reply: Reply) -> Vec<Action> {
        self.open.remove(&id);
        vec![Action::Tell(id, reply)]
    }
}

/// Where an adopted entry stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It holds its lock.
    Held,
    /// It waits.
    Waiting,
}

impl Leave {
    fn refusal(self) -> Refusal {
        match self {
            Self::Cancelled | Self::Released => Refusal::Cancelled,
            Self::WaitExpired => Refusal::WaitExpired,
        }
    }
}

fn made_by(record: &Record, open: &Open) -> bool {
    use prost::Message as _;
    EntryRecord::decode(record.value.clone()).is_ok_and(|stored| stored.same_request(&open.record))
}

fn dequeue(lock: &LockId, session: SessionId, request: RequestId, token: Revision) -> Op {
    let key = keys::entry(lock, EntryId { session, request });
    Op::Delete(Delete { key, guard: Guard::At(token), note: None })
}

#[cfg(test)]
mod tests;
