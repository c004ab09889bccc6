//! The state: what follows from applying the log in order, and nothing else.
//!
//! [`State::apply`] is the only way in. It judges each condition at its operation's place in the
//! log, changes the state, and says what became of the operation and whom else it concerns. It does
//! no I/O, reads no clock and no configuration, and nothing depends on the order of a hash map: two
//! replicas that apply the same records are equal. Time comes in as a [`Moment`], is kept to be
//! shown, and is never looked at.
//!
//! A lock is its queue ([`queue`]); who holds it follows from that. Entries are [`Entry`], sessions
//! [`Session`]; `enqueue`, `leave`, `attach` and `update` are the operations.

mod attach;
mod barrier;
mod checkpoint;
pub mod deadlock;
mod digest;
mod effect;
mod enqueue;
mod entry;
mod leave;
mod look;
pub mod queue;
mod session;
mod settle;
mod turn;
mod update;
mod waits;

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use lockd_proto::SessionId;
use slab::Slab;

use checkpoint::Checkpoint;
pub use checkpoint::{DamagedState, Restore, RestoreError};
pub use effect::{
    Ahead, Described, Effect, Failure, Handoff, HandoffReason, LossCause, News, Outcome, Refusal,
    SessionEnd,
};
pub use entry::{Asker, Details, Entry, Locks, Stage};
pub use look::{Counts, Page, QueuePage};
use queue::{Queue, Seated};
pub use session::{Ending, Session};
use turn::{Buffers, Turn};
pub use waits::{Blockers, Owner, Wait};

use crate::record::{LockId, Mode, Operation, Position, ReplicaId};

/// The most entries of a session: its end is one operation. A constant of level 1.
pub const MAX_ENTRIES: usize = 10_000;

/// A time at which this replica applied something, in nanoseconds on its own clock; zero where it
/// was not seen as it happened. Kept to be shown; nothing is decided by it.
pub type Moment = u64;

/// Where an operation stands, and who wrote it.
#[derive(Debug, Clone, Copy)]
pub struct Context {
    /// Its place in the log.
    pub at: Position,
    /// Its author.
    pub author: ReplicaId,
    /// When it is applied.
    pub now: Moment,
}

/// Everything that the log says, up to a place.
#[derive(Debug)]
pub struct State {
    level: u32,
    at: Position,
    floor: Position,
    /// The replicas that can write, each with the newest level that it reads.
    replicas: BTreeMap<ReplicaId, u32>,
    sessions: Slab<Session>,
    by_id: HashMap<SessionId, u32>,
    entries: Slab<Entry>,
    locks: BTreeMap<LockId, Box<Lock>>,
    /// What onces have left.
    results: BTreeMap<LockId, Finished>,
    owners: waits::Owners,
    /// How many entries wait.
    waiting: usize,
    /// The sum of the hashes of all items.
    digest: u128,
    /// The bytes of all items, encoded.
    bytes: u64,
    checkpoint: Option<Checkpoint>,
    scratch: Vec<u8>,
    buffers: Buffers,
}

/// A lock that has entries.
#[derive(Debug, Default)]
struct Lock {
    queue: Queue<Seat>,
    /// How many of its holders are parties that have left.
    left: u32,
    /// How many entries wait, as counted in all.
    waiting: u32,
    /// Since when its first holder holds it.
    held_since: Moment,
    /// How that came about.
    last: Option<Box<Handoff>>,
}

/// An entry in a queue.
#[derive(Debug, Clone, Copy)]
struct Seat {
    slot: u32,
    mode: Mode,
}

impl Seated for Seat {
    fn mode(&self) -> Mode {
        self.mode
    }
}

/// The result of a once.
#[derive(Debug, Clone, PartialEq)]
struct Finished {
    at: Position,
    result: Bytes,
}

impl Default for State {
    fn default() -> Self {
        let mut state = Self {
            level: 1,
            at: Position::default(),
            floor: Position::default(),
            replicas: BTreeMap::new(),
            sessions: Slab::new(),
            by_id: HashMap::new(),
            entries: Slab::new(),
            locks: BTreeMap::new(),
            results: BTreeMap::new(),
            owners: waits::Owners::default(),
            waiting: 0,
            digest: 0,
            bytes: 0,
            checkpoint: None,
            scratch: Vec::new(),
            buffers: Buffers::default(),
        };
        state.seal_meta();
        state
    }
}

impl State {
    /// Applies an operation. What it brings about for others than its author is added to `effects`.
    pub fn apply(
        &mut self,
        operation: Operation,
        cx: Context,
        effects: &mut Vec<Effect>,
    ) -> Outcome {
        let mut turn = Turn::new(cx, effects, std::mem::take(&mut self.buffers));
        let outcome = match operation {
            Operation::Start => self.start(cx),
            Operation::Open(open) => self.open(*open, &mut turn),
            Operation::Attach(attach) => self.attach(&attach, &mut turn),
            Operation::End { session, epoch } => self.end(session, epoch, &mut turn),
            Operation::Close { session } => self.close(session, &mut turn),
            Operation::Enqueue(enqueue) => self.enqueue(*enqueue, &mut turn),
            Operation::Cancel { session, stream, request } => {
                self.cancel(session, (stream, request), &mut turn)
            }
            Operation::Release(release) => self.release(&release, &mut turn),
            Operation::Update { session, request, change } => {
                self.update(session, request, change, &mut turn)
            }
            Operation::EndWait { lock, token, claim, why } => {
                self.end_wait(&lock, (token, claim), why, &mut turn)
            }
            Operation::Lapse { lock, token, since } => self.lapse(&lock, (token, since), &mut turn),
            Operation::Force { lock, token, reason } => {
                self.force(&lock, token, &reason, &mut turn)
            }
            Operation::Yield { lock, reason } => self.request_yield(&lock, &reason, &mut turn),
            Operation::Forget { lock } => self.forget(&lock),
            Operation::Level(level) => self.raise_level(level, cx),
            Operation::Floor(floor) => self.raise_floor(floor, &mut turn),
        };
        self.settle(&mut turn);
        self.buffers = turn.into_buffers();
        self.at = self.at.max(cx.at);
        outcome
    }

    /// A replica has joined a log that several write to.
    pub fn joined(&mut self, at: Position, replica: ReplicaId, level: u32) {
        self.change_meta(|state| {
            state.replicas.insert(replica, level);
        });
        self.at = self.at.max(at);
    }

    /// A replica is gone: nothing of it is applied any more.
    pub fn left(&mut self, at: Position, replica: ReplicaId) {
        self.change_meta(|state| {
            state.replicas.remove(&replica);
        });
        self.at = self.at.max(at);
    }

    fn start(&mut self, cx: Context) -> Outcome {
        self.change_meta(|state| {
            // Not what this version reads: another one that applies the same log has to agree.
            state.replicas = BTreeMap::from([(cx.author, state.level)]);
        });
        Outcome::Done
    }

    fn raise_level(&mut self, level: u32, cx: Context) -> Outcome {
        let mut others = self.replicas.iter().filter(|(replica, _)| **replica != cx.author);
        if !others.all(|(_, newest)| *newest >= level) {
            let problem = "a replica can't read this level of operations: upgrade it first";
            return Outcome::Failed(Failure::ChangeRefused(problem));
        }
        self.change_meta(|state| state.level = state.level.max(level));
        Outcome::Done
    }

    fn raise_floor(&mut self, floor: crate::record::Floor, turn: &mut Turn<'_>) -> Outcome {
        if floor.at > self.floor {
            self.floor = floor.at;
            turn.effects.push(Effect::Floor(floor));
        }
        Outcome::Done
    }

    fn session_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        let slot = *self.by_id.get(&id)?;
        self.sessions.get_mut(slot as usize)
    }

    fn entry(&self, slot: u32) -> Option<&Entry> {
        self.entries.get(slot as usize)
    }

    /// The slot of the entry that a request of a session made.
    fn slot_of(&self, session: SessionId, request: lockd_proto::RequestId) -> Option<u32> {
        self.session(session)?.entries.get(&request).copied()
    }

    /// The slot of a lock's entry with this token.
    fn slot_at(&self, lock: &LockId, token: Position) -> Option<u32> {
        self.locks.get(lock)?.queue.get(token).map(|seat| seat.slot)
    }
}

#[cfg(test)]
mod tests;
