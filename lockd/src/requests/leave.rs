//! How an entry leaves its queues, and what its client is told then.
//!
//! Most entries are deleted. A party, and a share of a group that fails, say in their record
//! how they have left: others have to see it.

use bytes::Bytes;
use lockd_proto::{RequestId, v1};
use prost::Message as _;

use super::claim::guarded;
use super::{Action, LossCause, Open, Phase, Refusal, Released, Reply, Requests, reply::Leave};
use crate::{
    error::Error,
    keys::{self, EntryId},
    mode::{Mode, OnLoss},
    record::{EntryRecord, Mark, NoteRecord},
    store::{Delete, Durable, LeaseId, Note, Op, Outcome, Put, Revision, StoreError},
    view::{Place, View},
};

/// An entry on its way out.
pub(super) struct Way {
    pub(super) token: Revision,
    pub(super) why: Leave,
    /// What it has said of itself; `None` if it was deleted.
    pub(super) mark: Option<Mark>,
    /// Whether the view has seen it go.
    pub(super) seen: bool,
}

impl Requests {
    pub(super) fn leave(&mut self, id: RequestId, why: Leave, view: &View) -> Vec<Action> {
        let Some(open) = self.open.get_mut(&id) else {
            return match why {
                Leave::Released => vec![Action::Tell(id, Reply::Released(Released::AlreadyLost))],
                _ => vec![Action::Tell(
                    id,
                    Reply::Refused { refusal: Refusal::Cancelled, ahead: None },
                )],
            };
        };
        match &mut open.phase {
            Phase::Enqueueing { leave } | Phase::Claiming { leave, .. } => {
                leave.get_or_insert(why);
                vec![]
            }
            Phase::Waiting { token } | Phase::Held { token } => {
                let token = *token;
                if why == Leave::Released {
                    view.releasing(&open.locks, token);
                }
                // Among entries of another kind a mark would mean nothing to anybody.
                let mark = open.mark(&why).filter(|_| !open.is_misplaced(view));
                let entry = EntryId { session: self.owner.session, request: id };
                let mut op = open.exit(entry, token, mark, why.note(entry, self.owner.lease));
                if let Op::Delete(delete) = &mut op
                    && open.may_come_back(&why)
                {
                    delete.durable = Durable::After;
                    delete.queues =
                        delete.keys.iter().map(|(key, _)| keys::queue_of(key)).collect();
                }
                open.phase = Phase::Leaving { token, why, mark, seen: false };
                vec![Action::Submit(id, op)]
            }
            Phase::Leaving { .. } | Phase::Left { .. } => vec![],
        }
    }

    /// The write that takes an entry out has come to its end.
    pub(super) fn out(
        &mut self,
        id: RequestId,
        way: Way,
        outcome: Result<Outcome, StoreError>,
        view: &View,
    ) -> Vec<Action> {
        let Way { token, why, mark, seen } = way;
        if let Some(again) = self.take_out_again(id, token, &outcome) {
            return again;
        }
        let released = match outcome {
            Ok(Outcome::Done(_)) => Released::Released,
            Ok(_) => Released::AlreadyLost,
            Err(error) => return self.close(id, Reply::failed(Error::Store(error))),
        };
        match mark {
            Some(Mark::Left) if released == Released::Released && !seen => {
                return self.wait_for_others(id, token, view);
            }
            // It stays in its queue.
            Some(_) => {}
            None if !seen => drop(self.departed.insert((id, token))),
            None => {}
        }
        self.left(id, why, released, view)
    }

    fn wait_for_others(&mut self, id: RequestId, token: Revision, view: &View) -> Vec<Action> {
        let Some(open) = self.open.get_mut(&id) else { return vec![] };
        open.phase = Phase::Left { token };
        match open.place(view, token) {
            Place::Broken => self.broken(id, token),
            Place::Held
            | Place::Waiting(_)
            | Place::Misplaced(_)
            | Place::Done
            | Place::Gone
            | Place::NotSeen => vec![],
        }
    }

    /// The barrier of an entry is broken: its client is told, and then the others can see that
    /// it knows.
    pub(super) fn broken(&mut self, id: RequestId, token: Revision) -> Vec<Action> {
        let Some(open) = self.open.get_mut(&id) else { return vec![] };
        let reply = match open.phase {
            Phase::Waiting { token: at } if at == token => {
                Reply::Refused { refusal: Refusal::Broken, ahead: None }
            }
            Phase::Held { token: at } | Phase::Left { token: at } if at == token => {
                Reply::Lost { token, cause: LossCause::Broken }
            }
            Phase::Enqueueing { .. }
            | Phase::Claiming { .. }
            | Phase::Waiting { .. }
            | Phase::Held { .. }
            | Phase::Left { .. }
            | Phase::Leaving { .. } => return vec![],
        };
        let entry = EntryId { session: self.owner.session, request: id };
        let (why, mark) = (Leave::Broken, Some(Mark::Gone));
        let op = open.exit(entry, token, mark, None);
        open.phase = Phase::Leaving { token, why, mark, seen: false };
        vec![Action::Tell(id, reply), Action::Submit(id, op)]
    }

    /// An entry is out of its queues, as was asked for.
    pub(super) fn left(
        &mut self,
        id: RequestId,
        why: Leave,
        released: Released,
        view: &View,
    ) -> Vec<Action> {
        let Some(open) = self.open.get(&id) else { return vec![] };
        match why {
            Leave::Released => self.close(id, Reply::Released(released)),
            Leave::Completed if released == Released::Released => self.close(id, Reply::Updated),
            Leave::Completed => {
                let lost = Error::ChangeRefused("the lock was lost before: nothing was stored");
                self.close(id, Reply::failed(lost))
            }
            Leave::Misplaced(there) => {
                let error = open.mismatch(there);
                self.close(id, Reply::failed(error))
            }
            Leave::Broken => {
                self.open.remove(&id);
                vec![]
            }
            Leave::Busy
            | Leave::Cancelled
            | Leave::WaitExpired
            | Leave::Done
            | Leave::Deadlock(_) => {
                let refusal = why.refusal(open, view);
                self.refuse(id, refusal)
            }
        }
    }
}

impl Open {
    pub(super) fn place(&self, view: &View, token: Revision) -> Place {
        self.locks.first().map_or(Place::Gone, |lock| view.place(lock, token))
    }

    /// Whether it waits among entries of another kind.
    fn is_misplaced(&self, view: &View) -> bool {
        let asked = self.mode().kind();
        self.locks.iter().filter_map(|lock| view.kind(lock)).any(|there| there != asked)
    }

    /// Notes who is ahead.
    pub(super) fn look(&mut self, view: &View, token: Revision) {
        if let Place::Waiting(ahead) = self.place(view, token) {
            self.ahead = Some(Box::new(ahead));
        }
    }

    pub(super) fn result(&self, view: &View) -> Option<Bytes> {
        self.locks.first().and_then(|lock| view.result(lock))
    }

    pub(super) fn mismatch(&self, there: crate::mode::Kind) -> Error {
        let asked = self.mode().kind();
        match self.locks.first() {
            Some(lock) => Error::KindMismatch { lock: lock.clone(), asked, there },
            None => Error::Protocol("an acquire without a lock"),
        }
    }

    /// Whether a crash may bring its entry back: a stream that is resumed then takes it out once
    /// more, and whoever comes after was told of nothing.
    fn may_come_back(&self, why: &Leave) -> bool {
        *why == Leave::Released && !self.is_followed()
    }

    /// What it has to say of itself when it leaves; `None` if it is deleted.
    fn mark(&self, why: &Leave) -> Option<Mark> {
        let held = matches!(self.phase, Phase::Held { .. });
        match (self.mode(), why) {
            (Mode::Party { .. }, Leave::Released) => Some(Mark::Left),
            (Mode::Party { .. }, _) => Some(Mark::Gone),
            // A share that nobody was told of is none that is lost.
            (Mode::Share(OnLoss::Fail), Leave::Cancelled) if held => Some(Mark::Gone),
            (
                Mode::Exclusive | Mode::Shared | Mode::Permits { .. } | Mode::Share(_) | Mode::Once,
                _,
            ) => None,
        }
    }

    pub(super) fn exit(
        &self,
        id: EntryId,
        token: Revision,
        mark: Option<Mark>,
        note: Option<Note>,
    ) -> Op {
        match (mark, self.locks.first()) {
            (Some(mark), Some(lock)) => {
                let record = EntryRecord { mark: mark.into(), ..EntryRecord::clone(&self.record) };
                Op::Put(Put {
                    key: keys::entry(lock, id),
                    value: record.encode_to_vec().into(),
                    // Marks are for entries that outlive their session.
                    lease: LeaseId::NONE,
                    guard: self.guard(token),
                })
            }
            _ => self.dequeue(id, token, note),
        }
    }

    /// Takes the entry out of all of its queues in one step.
    fn dequeue(&self, id: EntryId, token: Revision, note: Option<Note>) -> Op {
        Op::Delete(Delete { note, ..Delete::new(guarded(self, id, token)) })
    }

    pub(super) fn completion(&self, id: EntryId, token: Revision, value: Bytes) -> Op {
        let key = self.locks.first().map(keys::result);
        let note = key.map(|key| Note { key, value, lease: LeaseId::NONE });
        self.dequeue(id, token, note)
    }
}

impl Leave {
    /// What the others are to know of it.
    pub(super) fn note(&self, id: EntryId, lease: LeaseId) -> Option<Note> {
        let Self::Deadlock(deadlock) = self else { return None };
        let deadlock = Some(v1::Deadlock::clone(deadlock));
        let note = NoteRecord { deadlock, ..NoteRecord::default() };
        Some(Note { key: keys::note(id), value: note.encode_to_vec().into(), lease })
    }

    pub(super) fn refusal(&self, open: &Open, view: &View) -> Refusal {
        match self {
            Self::Busy => Refusal::Busy,
            Self::WaitExpired => Refusal::WaitExpired,
            Self::Deadlock(deadlock) => Refusal::Deadlock(deadlock.clone()),
            Self::Broken => Refusal::Broken,
            Self::Done => Refusal::Done(open.result(view).unwrap_or_default()),
            Self::Cancelled | Self::Released | Self::Completed | Self::Misplaced(_) => {
                Refusal::Cancelled
            }
        }
    }
}
