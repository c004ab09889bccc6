//! What a session has asked for and not yet let go of: the life of each acquire, as a state
//! machine without I/O or clock.
//!
//! ```text
//! acquire ─► Enqueueing ─► Waiting ─► Held ─► Leaving ─► gone
//!              │ └─ Claiming ─┘ │       │└─► Left ─► gone (a party)
//!              └── cancel, max_wait ────┘
//! ```
//!
//! Inputs are what the client asks, what became of a write, and what the view saw. Each
//! answers with the [`Action`]s to take. An entry that was submitted is always followed to
//! its end, so that a cancelled acquire leaves nothing behind.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use lockd_proto::RequestId;

use crate::{
    error::Error,
    keys::{EntryId, LockId},
    mode::Mode,
    record::{EntryRecord, Mark},
    store::{Op, Outcome, Record, Revision, StoreError},
    view::{Ahead, Entry, Place, Removal, SessionEvent, View},
};

mod claim;
mod enqueue;
mod leave;
mod reply;

pub use enqueue::{Acquire, Limits, Owner};
use reply::Leave;
pub use reply::{LossCause, Refusal, Released, Reply};

/// The open requests of one session.
#[derive(Debug)]
pub struct Requests {
    owner: Owner,
    limits: Limits,
    open: HashMap<RequestId, Open>,
    /// Entries that are gone from the store, and that the view has yet to see leave.
    departed: HashSet<(RequestId, Revision)>,
}

#[derive(Debug)]
struct Open {
    locks: Arc<[LockId]>,
    record: Arc<EntryRecord>,
    wait: Option<Duration>,
    phase: Phase,
    /// When the call that follows it last wrote the entry. A stream, which hears of what others
    /// do to its entries, needs no claim.
    claim: Option<Revision>,
    /// Who was ahead when that was last looked at.
    ahead: Option<Box<Ahead>>,
}

#[derive(Debug, Clone, PartialEq)]
enum Phase {
    /// The entry is on its way to the store; `leave` is why it is to be taken out at once.
    Enqueueing { leave: Option<Leave> },
    /// An earlier call has made the entry, and this one is taking it over.
    Claiming { token: Revision, leave: Option<Leave> },
    /// The entry is in its queues.
    Waiting { token: Revision },
    /// The client was told that it holds its locks.
    Held { token: Revision },
    /// The entry is on its way out; `seen` when the view has seen it go.
    Leaving { token: Revision, why: Leave, mark: Option<Mark>, seen: bool },
    /// The party has left, and waits for the others to do so.
    Left { token: Revision },
}

/// What is to be done next.
#[derive(Debug)]
pub enum Action {
    /// Commit this write and report its outcome with [`Requests::written`].
    Submit(RequestId, Op),
    /// Tell the client.
    Tell(RequestId, Reply),
}

impl Open {
    /// The request of an entry that was made before.
    fn of(entry: &Entry, phase: Phase) -> Self {
        let (locks, record) = (entry.locks.clone(), entry.record.clone());
        Self { locks, record, wait: None, phase, claim: None, ahead: None }
    }

    /// Keeps what the view keeps as well, instead of a copy of its own. A client may use its id for
    /// several locks: the entry may be that of another one.
    fn share(&mut self, entry: &Entry) {
        if self.locks == entry.locks && self.record == entry.record {
            (self.locks, self.record) = (entry.locks.clone(), entry.record.clone());
        }
    }

    fn mode(&self) -> Mode {
        self.record.mode()
    }

    /// Whether it would rather be refused than wait.
    fn is_try(&self) -> bool {
        self.wait.is_some_and(|wait| wait.is_zero())
    }
}

impl Requests {
    /// No requests yet.
    #[must_use]
    pub fn new(owner: Owner, limits: Limits) -> Self {
        Self { owner, limits, open: HashMap::new(), departed: HashSet::new() }
    }

    /// Whose they are.
    #[must_use]
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// Takes over an entry that an earlier stream of the session made, as the view shows it.
    pub fn adopt(&mut self, entry: &Entry, view: &View) -> Vec<Action> {
        let (id, token) = (entry.id.request, entry.created);
        let Some(lock) = entry.locks.first() else { return vec![] };
        let place = view.place(lock, token);
        let held = matches!(place, Place::Held);
        let phase = match entry.record.mark() {
            // Nobody waits for it any more; it stays for the others to see.
            Mark::Gone => return vec![],
            Mark::Left => Phase::Left { token },
            Mark::Here if held => Phase::Held { token },
            Mark::Here => Phase::Waiting { token },
        };
        self.open.insert(id, Open::of(entry, phase));
        match place {
            Place::Broken => self.broken(id, token),
            Place::Done => self.leave(id, Leave::Done, view),
            Place::Misplaced(kind) => self.leave(id, Leave::Misplaced(kind), view),
            Place::Held if !entry.record.yield_reason.is_empty() => {
                vec![Action::Tell(id, Reply::YieldRequested(entry.record.yield_reason.clone()))]
            }
            Place::Held | Place::Waiting(_) | Place::Gone | Place::NotSeen => vec![],
        }
    }

    /// The client wants locks. Asking again with the same id is a retry.
    pub fn acquire(&mut self, acquire: Acquire, view: &View) -> Vec<Action> {
        let id = acquire.request;
        if let Some(open) = self.open.get(&id) {
            if open.locks != acquire.locks || !open.record.same_request(&acquire.record) {
                return vec![Action::Tell(id, Reply::failed(Error::RequestIdReused))];
            }
            return match open.phase {
                Phase::Held { token } => vec![Action::Tell(id, Reply::Granted { token })],
                Phase::Enqueueing { .. }
                | Phase::Claiming { .. }
                | Phase::Waiting { .. }
                | Phase::Leaving { .. }
                | Phase::Left { .. } => vec![],
            };
        }
        if let Some(result) = acquire.result(view) {
            let reply = Reply::Refused { refusal: Refusal::Done(result), ahead: None };
            return vec![Action::Tell(id, reply)];
        }
        if let Some(error) = self.obstacle(&acquire, view) {
            return vec![Action::Tell(id, Reply::failed(error))];
        }
        if acquire.is_hopeless(view) {
            let ahead = acquire.locks.iter().find_map(|lock| view.ahead(lock)).map(Box::new);
            return vec![Action::Tell(id, Reply::Refused { refusal: Refusal::Busy, ahead })];
        }
        let phase = Phase::Enqueueing { leave: None };
        let Acquire { locks, record, max_wait: wait, .. } = acquire;
        let open = Open { locks, record, wait, phase, claim: None, ahead: None };
        let op = open.enqueue(id, &self.owner);
        self.open.insert(id, open);
        vec![Action::Submit(id, op)]
    }

    /// What keeps an acquire from being made at all. A retry finds its entry, whatever else is
    /// in its queues by now.
    fn obstacle(&self, acquire: &Acquire, view: &View) -> Option<Error> {
        let limit = self.limits.entries_per_session;
        // What is open here may not be in the view yet, and unary calls are open elsewhere.
        if self.open.len().max(view.entries_len(self.owner.session)) >= limit {
            return Some(Error::TooManyEntries { limit });
        }
        let id = EntryId { session: self.owner.session, request: acquire.request };
        if acquire.locks.iter().any(|lock| view.entry(id, lock).is_some()) {
            return None;
        }
        acquire.obstacle(&self.owner, &self.limits, view)
    }

    /// The requests that are open.
    pub fn ids(&self) -> impl Iterator<Item = RequestId> {
        self.open.keys().copied()
    }

    /// A lock that a request holds, and its token.
    #[must_use]
    pub fn held(&self, id: RequestId) -> Option<(LockId, Revision)> {
        let open = self.open.get(&id)?;
        match open.phase {
            Phase::Held { token } => Some((open.locks.first()?.clone(), token)),
            Phase::Enqueueing { .. }
            | Phase::Claiming { .. }
            | Phase::Waiting { .. }
            | Phase::Leaving { .. }
            | Phase::Left { .. } => None,
        }
    }

    /// The client does not want it any more.
    pub fn cancel(&mut self, id: RequestId, view: &View) -> Vec<Action> {
        self.leave(id, Leave::Cancelled, view)
    }

    /// The client has waited as long as it wanted to.
    pub fn wait_expired(&mut self, id: RequestId, view: &View) -> Vec<Action> {
        let Some(open) = self.open.get_mut(&id) else {
            return vec![];
        };
        match open.phase {
            Phase::Held { .. } | Phase::Leaving { .. } | Phase::Left { .. } => return vec![],
            Phase::Enqueueing { .. } | Phase::Claiming { .. } => {}
            Phase::Waiting { token } => open.look(view, token),
        }
        self.leave(id, Leave::WaitExpired, view)
    }

    /// The client gives back what it holds.
    pub fn release(&mut self, id: RequestId, view: &View) -> Vec<Action> {
        match self.open.get(&id).map(|open| &open.phase) {
            Some(Phase::Held { .. }) => self.leave(id, Leave::Released, view),
            Some(Phase::Enqueueing { .. } | Phase::Claiming { .. } | Phase::Waiting { .. }) => {
                vec![Action::Tell(id, Reply::failed(Error::StillWaiting))]
            }
            Some(Phase::Leaving { .. } | Phase::Left { .. }) => vec![],
            None => vec![Action::Tell(id, Reply::Released(Released::AlreadyLost))],
        }
    }

    /// The client has the result of a once: it is stored, and the entry released, in one step.
    pub fn complete(&mut self, id: RequestId, result: Bytes) -> Vec<Action> {
        let refused =
            |problem| vec![Action::Tell(id, Reply::failed(Error::ChangeRefused(problem)))];
        let Some(open) = self.open.get_mut(&id) else {
            return refused("the lock is not held by this request");
        };
        match open.phase {
            Phase::Held { token } if open.mode() == Mode::Once => {
                let op = open.completion(
                    EntryId { session: self.owner.session, request: id },
                    token,
                    result,
                );
                let why = Leave::Completed;
                open.phase = Phase::Leaving { token, why, mark: None, seen: false };
                vec![Action::Submit(id, op)]
            }
            Phase::Held { .. } => refused("only a once has a result"),
            // A retry, on its way already.
            Phase::Leaving { why: Leave::Completed, .. } => vec![],
            Phase::Enqueueing { .. }
            | Phase::Claiming { .. }
            | Phase::Waiting { .. }
            | Phase::Leaving { .. }
            | Phase::Left { .. } => refused("the lock is not held by this request"),
        }
    }

    /// A write came to its end.
    pub fn written(
        &mut self,
        id: RequestId,
        outcome: Result<Outcome, StoreError>,
        view: &View,
    ) -> Vec<Action> {
        match self.open.get(&id).map(|open| open.phase.clone()) {
            Some(Phase::Enqueueing { leave }) => self.enqueued(id, leave, outcome, view),
            Some(Phase::Claiming { token, leave }) => {
                self.claimed(id, (token, leave), outcome, view)
            }
            Some(Phase::Leaving { token, why, mark, seen }) => {
                self.out(id, leave::Way { token, why, mark, seen }, outcome, view)
            }
            Some(Phase::Waiting { .. } | Phase::Held { .. } | Phase::Left { .. }) | None => vec![],
        }
    }

    fn enqueued(
        &mut self,
        id: RequestId,
        leave: Option<Leave>,
        outcome: Result<Outcome, StoreError>,
        view: &View,
    ) -> Vec<Action> {
        let Some(open) = self.open.get_mut(&id) else {
            return vec![];
        };
        let (token, first) = match outcome {
            Ok(Outcome::Enqueued { revision, first }) => {
                open.claim = open.is_followed().then_some(revision);
                (revision, first)
            }
            Ok(Outcome::Exists(record)) if made_by(&record, open) => {
                return self.claim(id, record, leave, view);
            }
            Ok(Outcome::Exists(_)) => return self.close(id, Reply::failed(Error::RequestIdReused)),
            Ok(Outcome::Occupied) => {
                open.ahead = open.locks.iter().find_map(|lock| view.ahead(lock)).map(Box::new);
                return self.left(id, leave.unwrap_or(Leave::Busy), Released::AlreadyLost, view);
            }
            Ok(Outcome::SessionGone) => {
                return self.close(id, Reply::failed(Error::SessionNotFound(self.owner.session)));
            }
            Ok(Outcome::Done(_) | Outcome::Refused(_)) => {
                return self.close(id, Reply::failed(Error::Protocol("unexpected outcome")));
            }
            Err(error) => return self.close(id, Reply::failed(Error::Store(error))),
        };
        // Parties have to be counted, and a once may have a result, which only the view can tell.
        let first = first && !matches!(open.mode(), Mode::Party { .. } | Mode::Once);
        self.joined(id, token, leave, view, first)
    }

    /// An entry is in its queues. One that is `first` in them needs no look at the view.
    fn joined(
        &mut self,
        id: RequestId,
        token: Revision,
        leave: Option<Leave>,
        view: &View,
        first: bool,
    ) -> Vec<Action> {
        let Some(open) = self.open.get_mut(&id) else {
            return vec![];
        };
        let place = open.place(view, token);
        if let Place::Gone = place {
            // Taken out by force before its own write was heard of.
            let refusal = leave.map_or(Refusal::Forced, |why| why.refusal(open, view));
            return self.refuse(id, refusal);
        }
        open.phase = Phase::Waiting { token };
        if let Some(why) = leave {
            return self.leave(id, why, view);
        }
        if first {
            return self.granted(id, token, view);
        }
        self.placed(id, token, place, view)
    }

    /// A new entry was found in this place.
    fn placed(&mut self, id: RequestId, token: Revision, place: Place, view: &View) -> Vec<Action> {
        let Some(open) = self.open.get_mut(&id) else {
            return vec![];
        };
        match place {
            Place::Held | Place::Done => self.granted(id, token, view),
            Place::Misplaced(kind) => self.leave(id, Leave::Misplaced(kind), view),
            Place::Broken => self.broken(id, token),
            Place::Waiting(ahead) if open.is_try() => {
                open.ahead = Some(Box::new(ahead));
                self.leave(id, Leave::Busy, view)
            }
            Place::NotSeen if open.is_try() => self.leave(id, Leave::Busy, view),
            Place::Waiting(ahead) => {
                open.ahead = Some(Box::new(ahead.clone()));
                vec![Action::Tell(id, Reply::Queued(ahead))]
            }
            Place::NotSeen | Place::Gone => vec![],
        }
    }

    /// The view saw something of one of the session's entries.
    pub fn event(&mut self, event: SessionEvent, view: &View) -> Vec<Action> {
        match event {
            SessionEvent::Granted(entry) => self.granted_in_view(&entry, view),
            SessionEvent::Removed(entry, cause) => {
                self.removed_in_view(entry.id.request, entry.created, cause, view)
            }
            SessionEvent::Misplaced(entry, kind) => {
                self.end_wait(&entry, Leave::Misplaced(kind), view)
            }
            SessionEvent::Deadlocked(entry, deadlock) => {
                self.end_wait(&entry, Leave::Deadlock(deadlock), view)
            }
            SessionEvent::Broken(entry) => self.broken(entry.id.request, entry.created),
            SessionEvent::YieldRequested(entry) => self.yield_requested(&entry),
            SessionEvent::Attached(_) | SessionEvent::Ended => vec![],
        }
    }

    /// Whether nothing is on its way in or out.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let settled = |open: &Open| matches!(open.phase, Phase::Held { .. } | Phase::Left { .. });
        self.open.values().all(settled)
    }

    /// The view saw that an entry holds its locks now. One that is not known here was made by
    /// an earlier stream: the client is told, and gives back what it does not want.
    fn granted_in_view(&mut self, entry: &Entry, view: &View) -> Vec<Action> {
        let (id, token) = (entry.id.request, entry.created);
        if let Some(open) = self.open.get_mut(&id) {
            open.share(entry);
        }
        match self.open.get(&id).map(|open| &open.phase) {
            Some(Phase::Waiting { token: waiting }) if *waiting == token => {
                self.granted(id, token, view)
            }
            Some(_) => vec![],
            None if self.departed.contains(&(id, token)) => vec![],
            None => {
                self.open.insert(id, Open::of(entry, Phase::Waiting { token }));
                self.granted(id, token, view)
            }
        }
    }

    /// The view saw that an entry is gone.
    fn removed_in_view(
        &mut self,
        id: RequestId,
        token: Revision,
        cause: Removal,
        view: &View,
    ) -> Vec<Action> {
        if self.departed.remove(&(id, token)) {
            return vec![];
        }
        let Some(open) = self.open.get_mut(&id) else {
            return vec![];
        };
        match &mut open.phase {
            Phase::Held { token: held } if *held == token => {
                self.close(id, Reply::Lost { token, cause: LossCause::Removed(cause) })
            }
            Phase::Waiting { token: waiting } if *waiting == token => {
                let refusal = match cause {
                    Removal::BySession => Refusal::Cancelled,
                    Removal::Forced { .. } => Refusal::Forced,
                };
                self.refuse(id, refusal)
            }
            Phase::Leaving { token: leaving, seen, .. } if *leaving == token => {
                *seen = true;
                vec![]
            }
            // All have left.
            Phase::Left { token: left } if *left == token => {
                self.left(id, Leave::Released, Released::Released, view)
            }
            Phase::Enqueueing { .. }
            | Phase::Claiming { .. }
            | Phase::Waiting { .. }
            | Phase::Held { .. }
            | Phase::Leaving { .. }
            | Phase::Left { .. } => vec![],
        }
    }

    fn end_wait(&mut self, entry: &Entry, why: Leave, view: &View) -> Vec<Action> {
        let id = entry.id.request;
        match self.open.get(&id).map(|open| &open.phase) {
            Some(Phase::Waiting { token }) if *token == entry.created => self.leave(id, why, view),
            Some(_) | None => vec![],
        }
    }

    /// Somebody wants what an entry holds.
    fn yield_requested(&mut self, entry: &Entry) -> Vec<Action> {
        let id = entry.id.request;
        match self.open.get(&id).map(|open| &open.phase) {
            Some(Phase::Held { token }) if *token == entry.created => {
                vec![Action::Tell(id, Reply::YieldRequested(entry.record.yield_reason.clone()))]
            }
            Some(_) | None => vec![],
        }
    }

    fn granted(&mut self, id: RequestId, token: Revision, view: &View) -> Vec<Action> {
        let Some(open) = self.open.get_mut(&id) else {
            return vec![];
        };
        if open.mode() == Mode::Once && open.result(view).is_some() {
            return self.leave(id, Leave::Done, view);
        }
        open.phase = Phase::Held { token };
        vec![Action::Tell(id, Reply::Granted { token })]
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

fn made_by(record: &Record, open: &Open) -> bool {
    use prost::Message as _;
    EntryRecord::decode(record.value.clone()).is_ok_and(|stored| stored.same_request(&open.record))
}

#[cfg(test)]
mod tests;
