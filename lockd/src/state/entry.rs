//! An entry: a place in the queues of one lock or several.

use std::sync::Arc;

use bytes::Bytes;
use lockd_proto::{RequestId, SessionId};
use serde::{Deserialize, Serialize};

use super::Moment;
use crate::record::{Enqueue, Info, LockId, Mode, Position, ReplicaId, Wait};

/// An entry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The place of the operation that made it: its fencing token.
    pub token: Position,
    /// The session that it belongs to.
    pub session: SessionId,
    /// The request that made it.
    pub request: RequestId,
    /// The locks in whose queues it is.
    pub locks: Locks,
    /// How it shares them.
    pub mode: Mode,
    /// What it is at.
    pub stage: Stage,
    /// Who may end its wait.
    pub asker: Asker,
    /// How long it waits, counted by its asker from the claim.
    pub wait: Wait,
    /// How long its locks stay taken after a loss, in milliseconds.
    pub lock_delay_ms: u32,
    /// When it was made, in milliseconds of the Unix epoch: to show, never to decide.
    pub made_unix_ms: u64,
    /// What is shown beside it; `None` if there is nothing.
    pub details: Option<Box<Details>>,
    /// When it joined its queues, as this replica has seen it. Not a part of the state.
    #[serde(skip)]
    pub joined: Moment,
    /// In how many of its queues it is held. Follows from the queues.
    #[serde(skip)]
    pub(super) held_in: u32,
}

/// The locks of an entry. Most have one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Locks {
    /// One lock.
    One(LockId),
    /// Several, each once.
    Many(Arc<[LockId]>),
}

/// What an entry is at, beside waiting and holding, which its queues say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// Its client waits, or holds.
    Here,
    /// A party that has left its barrier, and waits for the others to do so.
    Left,
    /// A share whose session has died, or that was given up: its group has failed.
    Lost,
    /// Its session has died, and its locks stay taken for its lock-delay.
    Delayed {
        /// The place of the session's end.
        since: Position,
    },
}

/// The request that an entry was last asked for by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Asker {
    /// The replica where it came in.
    pub author: ReplicaId,
    /// The stream that it came by; 0 for a call that is not numbered.
    pub stream: u64,
    /// The place of its operation.
    pub claim: Position,
}

/// What is shown beside an entry.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Details {
    /// What the acquire said of itself, sorted by key.
    pub metadata: Vec<(Box<str>, Box<str>)>,
    /// As in [`Info`].
    pub trace: Box<str>,
    /// Until when it waits, in milliseconds of the Unix epoch; zero where it waits for ever.
    pub wait_until_unix_ms: u64,
    /// Its value.
    pub value: Bytes,
    /// The logical task that it belongs to; may be empty.
    pub owner: Box<str>,
    /// Why it was asked to yield; empty if it was not.
    pub yield_reason: Box<str>,
}

impl Details {
    /// The trace that the entry was asked for in; empty where that is not known.
    #[must_use]
    pub fn trace_id(&self) -> String {
        Info { trace: self.trace.clone(), ..Info::default() }.trace_id()
    }
}

impl Locks {
    /// The locks, the first one first.
    #[must_use]
    pub fn as_slice(&self) -> &[LockId] {
        match self {
            Self::One(lock) => std::slice::from_ref(lock),
            Self::Many(locks) => locks,
        }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        u32::try_from(self.as_slice().len()).unwrap_or(u32::MAX)
    }
}

impl From<Vec<LockId>> for Locks {
    fn from(mut locks: Vec<LockId>) -> Self {
        match (locks.len(), locks.pop()) {
            (1, Some(lock)) => Self::One(lock),
            (_, last) => Self::Many(locks.into_iter().chain(last).collect()),
        }
    }
}

impl Entry {
    /// The entry that an operation makes.
    pub(super) fn new(enqueue: Enqueue, asker: Asker, joined: Moment) -> Self {
        let Enqueue { session, request, locks, mode, wait, lock_delay_ms, info, .. } = enqueue;
        let Info { metadata, trace, made_unix_ms, wait_until_unix_ms, value, owner } = info;
        let yield_reason = Box::default();
        let details = Details { metadata, trace, wait_until_unix_ms, value, owner, yield_reason };
        Self {
            token: asker.claim,
            session,
            request,
            locks: locks.into(),
            mode,
            stage: Stage::Here,
            asker,
            wait,
            lock_delay_ms,
            made_unix_ms,
            details: (details != Details::default()).then(|| Box::new(details)),
            joined,
            held_in: 0,
        }
    }

    /// Whether an operation asks for what made this entry.
    pub(super) fn is_asked_for_by(&self, enqueue: &Enqueue) -> bool {
        let none = Details::default();
        let there = self.details.as_deref().unwrap_or(&none);
        let there = Info {
            metadata: there.metadata.clone(),
            trace: there.trace.clone(),
            owner: there.owner.clone(),
            ..Info::default()
        };
        // Only a downgrade changes a mode.
        let same_mode = self.mode == enqueue.mode
            || (self.mode == Mode::Shared && enqueue.mode == Mode::Exclusive);
        self.locks.as_slice() == enqueue.locks
            && same_mode
            && self.lock_delay_ms == enqueue.lock_delay_ms
            && there.is_same_request(&enqueue.info)
    }

    /// Its wait ends then, as far as is shown.
    pub(super) fn wait_until(&mut self, unix_ms: u64) {
        match &mut self.details {
            Some(details) => details.wait_until_unix_ms = unix_ms,
            None if unix_ms == 0 => {}
            None => self.details.get_or_insert_default().wait_until_unix_ms = unix_ms,
        }
    }

    /// Whether it holds all of its locks.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.held_in == self.locks.count()
    }

    /// The logical task that it belongs to; empty if it names none.
    #[must_use]
    pub fn owner(&self) -> &str {
        self.details.as_ref().map_or("", |details| &details.owner)
    }

    /// Why it was asked to yield; empty if it was not.
    #[must_use]
    pub fn yield_reason(&self) -> &str {
        self.details.as_ref().map_or("", |details| &details.yield_reason)
    }

    /// The span or trace that it was asked for in; empty if that is not known.
    #[must_use]
    pub fn trace(&self) -> &str {
        self.details.as_ref().map_or("", |details| &details.trace)
    }
}
