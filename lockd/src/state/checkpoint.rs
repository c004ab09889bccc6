//! Checkpoints: the state exactly as it was at a place, written while the log goes on, and read
//! back.
//!
//! A cursor goes through the items, a bounded number a turn. An item that changes or goes before
//! the cursor has come to it is copied first, as it was; what came later is left out. So what is
//! written is the state as of the floor, however long that takes (RULES T1, T5).

use std::{
    borrow::Cow,
    collections::{HashSet, VecDeque},
    ops::Bound,
};

use lockd_proto::SessionId;

use super::{
    Entry, Finished, Session, Stage, State,
    digest::{DigestItem, Meta, hash},
    enqueue::slot,
};
use crate::record::{Floor, LEVEL, LockId, Position};

/// Items that are looked at for one chunk, whether or not they are written.
const LOOKS: usize = 4096;

/// A checkpoint that is being written.
#[derive(Debug)]
pub(super) struct Checkpoint {
    floor: Position,
    part: Part,
    /// Items that the cursor must not write again, by the place where they were made.
    copied: HashSet<Position>,
    /// Their bytes, until they are written. `None` if the state is only compared with its digest.
    copies: Option<VecDeque<Vec<u8>>>,
    items: u64,
    /// The sum of the hashes of what was written. At the end it is the digest, if the items are still those
    /// that operations made.
    sum: u128,
    digest: u128,
    level: u32,
}

/// The items in memory are not those that operations made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the state at {at} has another digest than its operations made: the memory of this machine is \
     damaged, or this version of lockd has a defect; start it again, on another machine if it comes back"
)]
pub struct DamagedState {
    /// The place of the checkpoint that showed it.
    pub at: Position,
}

/// Where the cursor is.
#[derive(Debug)]
enum Part {
    Sessions(usize),
    Entries(usize),
    Results(Option<LockId>),
    Over,
}

/// A checkpoint that can't be read back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RestoreError {
    /// A chunk is malformed.
    #[error("the checkpoint has a chunk that can't be read: {0}")]
    Malformed(String),
    /// It is of a newer version.
    #[error(
        "the checkpoint is of level {found}, and this version of lockd reads up to level {LEVEL}: \
         upgrade lockd on this machine"
    )]
    Newer {
        /// Its level.
        found: u32,
    },
    /// It is not the state that it was made of.
    #[error(
        "the checkpoint at {at} has {found} items of {expected}, or their digest is another one: it is \
         damaged"
    )]
    Differs {
        /// The floor.
        at: Position,
        /// How many items were found.
        found: u64,
        /// How many there should be.
        expected: u64,
    },
}

impl State {
    /// Begins a checkpoint of the state as it is now. One that was not finished is given up.
    pub fn begin_checkpoint(&mut self) -> Position {
        self.begin(Some(VecDeque::new()))
    }

    /// Begins to compare the state with its digest, as a checkpoint whose chunks are of no use.
    pub(crate) fn begin_scrub(&mut self) {
        self.begin(None);
    }

    fn begin(&mut self, copies: Option<VecDeque<Vec<u8>>>) -> Position {
        let mut checkpoint = Checkpoint {
            floor: self.at,
            part: Part::Sessions(0),
            copied: HashSet::new(),
            copies,
            items: 0,
            sum: 0,
            digest: self.digest,
            level: self.level,
        };
        checkpoint.keep(DigestItem::Meta(self.meta()).encode(Vec::new()));
        self.checkpoint = Some(checkpoint);
        self.at
    }

    /// Gives up the checkpoint that is being written.
    pub fn give_up_checkpoint(&mut self) {
        self.checkpoint = None;
    }

    /// The next chunk, of about `size` bytes or one item; `None` when all have been written. A chunk may
    /// be empty: it has cost as much as one that is not.
    pub fn next_chunk(&mut self, size: usize) -> Option<Vec<u8>> {
        let mut checkpoint = self.checkpoint.take()?;
        let mut chunk = Vec::new();
        for _ in 0..LOOKS {
            if chunk.len() >= size || checkpoint.is_over() {
                break;
            }
            chunk = self.write_next(&mut checkpoint, chunk);
        }
        let over = chunk.is_empty() && checkpoint.is_over();
        self.checkpoint = Some(checkpoint);
        (!over).then_some(chunk)
    }

    /// Ends the checkpoint whose chunks have been written: a floor, but for what the log knows of it;
    /// `None` if there is none.
    ///
    /// # Errors
    /// What was written has another digest than the state had: nothing may rest on it.
    pub fn finish_checkpoint(&mut self) -> Result<Option<Floor>, DamagedState> {
        let Some(checkpoint) = self.checkpoint.take() else { return Ok(None) };
        let Checkpoint { floor: at, items, sum, digest, level, .. } = checkpoint;
        if sum != digest {
            return Err(DamagedState { at });
        }
        Ok(Some(Floor { at, which: 0, chunks: 0, items, digest, level }))
    }

    fn write_next(&self, checkpoint: &mut Checkpoint, mut chunk: Vec<u8>) -> Vec<u8> {
        if let Some(copy) = checkpoint.copies.as_mut().and_then(VecDeque::pop_front) {
            chunk.extend_from_slice(&copy);
            return chunk;
        }
        match self.next_item(checkpoint) {
            Some((made, item)) if checkpoint.takes(made) => {
                let before = chunk.len();
                chunk = item.encode(chunk);
                checkpoint.count(chunk.get(before..).unwrap_or_default());
                chunk
            }
            Some(_) | None => chunk,
        }
    }

    /// Moves the cursor on, and gives the item that it was at with the place where that was made.
    fn next_item(&self, checkpoint: &mut Checkpoint) -> Option<(Position, DigestItem<'_>)> {
        match &mut checkpoint.part {
            Part::Sessions(at) if *at >= self.sessions.capacity() => {
                checkpoint.part = Part::Entries(0);
                None
            }
            Part::Sessions(at) => {
                let session = self.sessions.get(*at);
                *at += 1;
                session.map(|it| (it.opened, DigestItem::Session(Cow::Borrowed(it))))
            }
            Part::Entries(at) if *at >= self.entries.capacity() => {
                checkpoint.part = Part::Results(None);
                None
            }
            Part::Entries(at) => {
                let entry = self.entries.get(*at);
                *at += 1;
                entry.map(|it| (it.token, DigestItem::Entry(Cow::Borrowed(it))))
            }
            Part::Results(after) => {
                let from = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
                let next = self.results.range::<LockId, _>((from, Bound::Unbounded)).next();
                let Some((lock, finished)) = next else {
                    checkpoint.part = Part::Over;
                    return None;
                };
                *after = Some(lock.clone());
                self.result_item(lock).map(|item| (finished.at, item))
            }
            Part::Over => None,
        }
    }

    /// Keeps an entry for the checkpoint as it is, if the cursor has yet to come to it.
    pub(super) fn copy_entry(&mut self, slot: u32) {
        let Some(checkpoint) = &mut self.checkpoint else {
            return;
        };
        let ahead = match checkpoint.part {
            Part::Sessions(_) => true,
            Part::Entries(at) => slot as usize >= at,
            Part::Results(_) | Part::Over => false,
        };
        if let Some(entry) = self.entries.get(slot as usize).filter(|_| ahead) {
            checkpoint.copy(entry.token, &DigestItem::Entry(Cow::Borrowed(entry)));
        }
    }

    /// As [`copy_entry`](Self::copy_entry), for a session.
    pub(super) fn copy_session(&mut self, id: SessionId) {
        let Some(checkpoint) = &mut self.checkpoint else {
            return;
        };
        let Some(slot) = self.by_id.get(&id).map(|slot| *slot as usize) else {
            return;
        };
        let ahead = matches!(checkpoint.part, Part::Sessions(at) if slot >= at);
        if let Some(session) = self.sessions.get(slot).filter(|_| ahead) {
            checkpoint.copy(session.opened, &DigestItem::Session(Cow::Borrowed(session)));
        }
    }

    /// As [`copy_entry`](Self::copy_entry), for the result of a once.
    pub(super) fn copy_result(&mut self, lock: &LockId) {
        let Some(checkpoint) = &mut self.checkpoint else {
            return;
        };
        let ahead = match &checkpoint.part {
            Part::Sessions(_) | Part::Entries(_) => true,
            Part::Results(after) => after.as_ref().is_none_or(|after| lock > after),
            Part::Over => false,
        };
        if let Some(Finished { at, result }) = self.results.get(lock).filter(|_| ahead) {
            let (lock, result) = (Cow::Borrowed(lock), Cow::Borrowed(result));
            checkpoint.copy(*at, &DigestItem::Result { lock, at: *at, result });
        }
    }
}

impl Checkpoint {
    fn is_over(&self) -> bool {
        matches!(self.part, Part::Over) && self.copies.as_ref().is_none_or(VecDeque::is_empty)
    }

    /// Whether an item that was made there belongs to the checkpoint, and was not copied.
    fn takes(&self, made: Position) -> bool {
        made <= self.floor && !self.copied.contains(&made)
    }

    fn copy(&mut self, made: Position, item: &DigestItem<'_>) {
        if self.takes(made) {
            self.copied.insert(made);
            self.keep(item.encode(Vec::new()));
        }
    }

    fn keep(&mut self, item: Vec<u8>) {
        self.count(&item);
        if let Some(copies) = &mut self.copies {
            copies.push_back(item);
        }
    }

    fn count(&mut self, item: &[u8]) {
        self.items += 1;
        self.sum = self.sum.wrapping_add(hash(item));
    }
}

/// A state that is being read back. No operation is applied before it is whole.
#[derive(Debug, Default)]
pub(crate) struct Restore {
    meta: Option<Meta>,
    sessions: Vec<Session>,
    entries: Vec<Entry>,
    results: Vec<(LockId, Finished)>,
    items: u64,
}

impl Restore {
    /// Reads a chunk.
    ///
    /// # Errors
    /// It can't be read.
    pub(crate) fn chunk(&mut self, mut chunk: &[u8]) -> Result<(), RestoreError> {
        while !chunk.is_empty() {
            let (item, rest) = postcard::take_from_bytes::<DigestItem<'static>>(chunk)
                .map_err(|error| RestoreError::Malformed(error.to_string()))?;
            chunk = rest;
            self.items += 1;
            match item {
                DigestItem::Meta(meta) => self.meta = Some(meta),
                DigestItem::Session(session) => self.sessions.push(session.into_owned()),
                DigestItem::Entry(entry) => self.entries.push(entry.into_owned()),
                DigestItem::Result { lock, at, result } => {
                    let result = result.into_owned();
                    self.results.push((lock.into_owned(), Finished { at, result }));
                }
            }
        }
        Ok(())
    }

    /// The state, once all chunks have been read.
    ///
    /// # Errors
    /// It is not the state that the floor names, or one of a newer version.
    pub(crate) fn finish(mut self, floor: &Floor) -> Result<State, RestoreError> {
        if floor.level > LEVEL {
            return Err(RestoreError::Newer { found: floor.level });
        }
        let mut state = State::default();
        if let Some(meta) = self.meta {
            state.change_meta(|state| (state.level, state.replicas) = (meta.level, meta.replicas));
        }
        self.sessions.sort_unstable_by_key(|session| session.opened);
        self.sessions.into_iter().for_each(|session| state.insert_session(session));
        // In the order of their tokens each joins its queues at the end.
        self.entries.sort_unstable_by_key(|entry| entry.token);
        self.entries.into_iter().for_each(|entry| state.rejoin(entry));
        for (lock, finished) in self.results {
            state.store_result(lock, finished);
        }
        state.derive();
        (state.at, state.floor) = (floor.at, floor.at);
        if self.items == floor.items && state.digest == floor.digest {
            return Ok(state);
        }
        let (at, found, expected) = (floor.at, self.items, floor.items);
        Err(RestoreError::Differs { at, found, expected })
    }
}

impl State {
    fn rejoin(&mut self, mut entry: Entry) {
        entry.held_in = 0;
        let (session, request, token) = (entry.session, entry.request, entry.token);
        let (mode, stage, locks) = (entry.mode, entry.stage, entry.locks.clone());
        let slot = self.insert_entry(entry);
        for lock in locks.as_slice() {
            let there = self.locks.entry(lock.clone()).or_default();
            there.queue.insert(token, super::Seat { slot, mode });
            there.left += u32::from(stage == Stage::Left);
        }
        let is_open = matches!(stage, Stage::Here | Stage::Left);
        if let Some(session) = self.session_mut(session)
            && is_open
            && session.opened < token
        {
            session.entries.insert(request, slot);
            self.note_owner(slot);
        }
    }

    /// What follows from the entries: who holds, and how many wait.
    fn derive(&mut self) {
        self.waiting = 0;
        for there in self.locks.values_mut() {
            for seat in there.queue.advance() {
                if let Some(entry) = self.entries.get_mut(seat.slot as usize) {
                    entry.held_in += 1;
                }
            }
            let waiting = there.queue.len() - there.queue.held();
            self.waiting += waiting;
            there.waiting = u32::try_from(waiting).unwrap_or(u32::MAX);
        }
        let slots: Vec<_> = self.entries.iter().map(|(index, _)| slot(index)).collect();
        slots.into_iter().for_each(|slot| self.note_granted(slot));
    }
}
