//! What lockd needs of a log: records appended exactly once, delivered in order, made durable;
//! checkpoints beside it, and trimming.
//!
//! Two implementations, `journal` and `etcd`, pass one conformance suite. Neither knows what is
//! in a record: bytes, and how many operations they hold.

pub(crate) mod etcd;
pub(crate) mod journal;

use std::{
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use lockd_proto::clock::Instant;

pub(crate) use crate::record::Floor;
use crate::record::{Position, ReplicaId};

/// The most operations of one record. On etcd a position is revision × 1,024 plus the operation's
/// place in its record.
pub const MAX_OPERATIONS: usize = 1024;

/// The most bytes of one record.
pub const MAX_RECORD_BYTES: usize = 256 * 1024;

/// The longest name by which a restore is accepted.
const MAX_RESTORE_NAME: usize = 64;

/// Whether a restore from a backup can be accepted by this name: one word. A log remembers the last one.
#[must_use]
pub(crate) fn is_restore_name(name: &str) -> bool {
    (1..=MAX_RESTORE_NAME).contains(&name.len()) && name.bytes().all(|it| it.is_ascii_graphic())
}

/// A durable, ordered log, used by one owner: the core loop.
///
/// Every call but [`poll_event`](Self::poll_event) returns at once; only [`sync`](Self::sync) may
/// block the thread, for one `fdatasync`.
pub trait Log: Send + 'static {
    /// What this log is and can do.
    fn profile(&self) -> &Profile;

    /// Whether a lane can take a record at this moment: this replica is live, and what was appended on
    /// the lane before has been delivered, or refused. There are `Profile::lanes` of them.
    fn is_idle(&self, lane: usize) -> bool;

    /// Appends a record on an idle lane, exactly once however often attempts are repeated. It comes
    /// back as [`Event::Record`] where it lands, or as [`Event::Refused`] if it never will.
    ///
    /// # Errors
    /// The lane is not idle, the record is larger than is allowed, there is no room for one of its kind,
    /// or the log has stopped: nothing was appended.
    fn append(&mut self, lane: usize, draft: Draft) -> Result<(), LogError>;

    /// The next event, in order. The events that rebuild the state come first: [`Event::Reset`], then
    /// chunks, [`Event::Floor`], the records after it, and [`Event::Live`]. They may come again later
    /// where deliveries were missed.
    ///
    /// # Cancel safety
    /// No event is lost: a caller that stops polling receives it at the next call.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event>;

    /// Makes durable what was delivered, and says up to which position everything is. Does nothing
    /// where that is so already.
    ///
    /// # Errors
    /// The log has failed for good: nothing of what was delivered since the last success may be
    /// answered, and the process must end.
    fn sync(&mut self) -> Result<Position, LogError>;

    /// As [`sync`](Self::sync), for what was appended without an answer that rests on it, and whatever
    /// else keeps what is durable safe. To be called some 10 ms after the last append, and now and then
    /// while nothing happens.
    ///
    /// # Errors
    /// As [`sync`](Self::sync).
    fn settle(&mut self) -> Result<Position, LogError> {
        self.sync()
    }

    /// Asks for an [`Event::Barrier`] with this number, once everything has been delivered that was in
    /// the log when this was called. Several calls before the next poll may share one.
    fn barrier(&mut self, number: u64);

    /// How this replica stands with the log.
    fn standing(&self) -> Standing;

    /// For how long after a proof answers to keepalives may promise a whole TTL, where replicas share the
    /// log: another one may still answer for so long for a session that has moved here.
    fn promise_window(&self) -> Duration {
        Duration::ZERO
    }

    /// Reads the log once more from its newest floor, beside what is delivered, as [`Event::Again`]. Only
    /// where the log is shared: elsewhere nothing else writes it, and this does nothing.
    fn recount(&mut self) {}

    /// Bytes in the log after its newest floor: what a restart has to read again.
    fn bytes_after_floor(&self) -> u64;

    /// Whether a chunk finds room at this moment. One that does not is not to be written yet.
    fn takes_chunks(&self) -> bool {
        true
    }

    /// Writes a chunk of the checkpoint at `floor`. The first call with a new floor begins another
    /// checkpoint, and what was written of one that was not finished is garbage. Takes at most 64 KiB
    /// or one item.
    ///
    /// # Errors
    /// There is no room, or the log has stopped. The checkpoint is given up.
    fn write_chunk(&mut self, floor: Position, chunk: Bytes) -> Result<(), LogError>;

    /// Makes the chunks written for `floor` durable, and then delivers [`Event::Checkpoint`].
    ///
    /// # Errors
    /// As [`write_chunk`](Self::write_chunk).
    fn finish_checkpoint(&mut self, floor: Position) -> Result<(), LogError>;

    /// Deletes records up to the floor, and older checkpoints. To be called when the floor's record has
    /// been applied and is durable; a floor that is not greater than the one before changes nothing.
    ///
    /// # Errors
    /// The log has stopped.
    fn trim(&mut self, floor: &Floor) -> Result<(), LogError>;
}

/// What a log is and can do.
#[derive(Debug, Clone)]
pub struct Profile {
    /// "embedded", "memory" or "etcd".
    pub name: &'static str,
    /// How many records can be under way at once. Records of one lane land in the order of their
    /// appends; those of different lanes in any order.
    pub lanes: usize,
    /// Whether other replicas write to the same log.
    pub is_shared: bool,
}

/// A record to append.
#[derive(Debug, Clone)]
pub struct Draft {
    /// How many operations it holds, 1 to [`MAX_OPERATIONS`].
    pub operations: u32,
    /// The record, at most [`MAX_RECORD_BYTES`].
    pub bytes: Bytes,
    /// What it may be written into.
    pub room: Room,
    /// The floor that it makes, if it does: a log that keeps one outside its records writes it in the
    /// same step.
    pub floor: Option<Floor>,
}

/// What space a record may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// What is not reserved.
    Ordinary,
    /// The reserve as well: releases, ends of sessions and of waits, attachments, floors. They free
    /// more than they take.
    Reserve,
}

/// What happens in a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The state begins anew, from nothing: what follows rebuilds it.
    Reset,
    /// A piece of the checkpoint that the next [`Event::Floor`] completes.
    Chunk(Bytes),
    /// The chunks since [`Event::Reset`] are the state as it was at this floor.
    Floor(Floor),
    /// A record.
    Record(Delivered),
    /// A restore from a backup was accepted here: what comes next is another history than the one that
    /// was lost. Comes while the log is read, until a floor lies behind it.
    Restored {
        /// After everything before it, and before all that follows.
        at: Position,
    },
    /// Everything that was in the log at its opening has been delivered. From now on this replica
    /// writes under this name.
    Live(ReplicaId),
    /// A replica has joined: it can write, and keeps sessions. Only where the log is shared.
    Joined {
        /// When, between the records around it.
        at: Position,
        /// The replica.
        replica: ReplicaId,
        /// The newest level of operations that it can read.
        level: u32,
    },
    /// A replica is gone: nothing of it can land any more. If it is this one, records of its own that
    /// were not delivered never will be, and [`Event::Live`] names its next life.
    Left {
        /// When.
        at: Position,
        /// The replica.
        replica: ReplicaId,
    },
    /// A record of this replica's own will never land: nothing of it was applied.
    Refused {
        /// The lane, which is idle again.
        lane: usize,
        /// Why.
        error: LogError,
    },
    /// Everything that was in the log when this barrier was asked for has been delivered.
    Barrier(u64),
    /// The checkpoint at this floor is durable: its floor can be appended.
    Checkpoint {
        /// The floor.
        floor: Position,
        /// Names the checkpoint among those at the same floor.
        which: u64,
        /// How many chunks it has.
        chunks: u64,
    },
    /// A piece of the log that is read once more, as [`Log::recount`] asked for: what rebuilds a state, from
    /// [`Event::Reset`] on. `None` at the end, as far as it could be read.
    Again(Option<Box<Event>>),
    /// The log has failed for good. The process must end.
    Failed(LogError),
}

/// A record where it has landed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    /// The place of its first operation. The others follow it.
    pub at: Position,
    /// Who has written it.
    pub author: ReplicaId,
    /// The lane, if this replica has written it in its present life: the lane is idle again.
    pub lane: Option<usize>,
    /// The record.
    pub bytes: Bytes,
}

/// How a replica stands with its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Until when answers to keepalives may promise a whole TTL: see DESIGN, Leases. `None` for a
    /// log that has no other writer, where that is always.
    pub promise_until: Option<Instant>,
    /// Whether deliveries are known to be recent: else this replica grants nothing and answers no
    /// question.
    pub is_fresh: bool,
    /// When deliveries were last known to be whole; `None` before the first time.
    pub confirmed: Option<Instant>,
}

/// Why a log did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// It can't be reached. Nothing was applied.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// There is no room. Releases still work.
    #[error("the store is full: {0}; make room, waiting locks are safe")]
    Full(String),
    /// It can't be opened, is damaged, or a write has failed: not to be mended by a retry.
    #[error("{0}")]
    Broken(String),
}
