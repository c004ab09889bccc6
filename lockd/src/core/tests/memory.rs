//! A log in memory: what is appended is delivered at once.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::{
    log::{Delivered, Draft, Event, Floor, Log, LogError, Profile, Standing},
    record::{Operation, Position, Record, ReplicaId},
};

/// A log that nothing outlives.
#[derive(Debug)]
pub(super) struct MemoryLog {
    profile: Profile,
    next: Position,
    is_busy: bool,
    events: VecDeque<Event>,
    waker: Option<Waker>,
    trimmed: Arc<Mutex<Option<Floor>>>,
}

impl MemoryLog {
    pub(super) fn new() -> Self {
        let profile = Profile { name: "memory", lanes: 1, is_shared: false };
        let events = VecDeque::from([Event::Reset, Event::Live(ReplicaId(7))]);
        let trimmed = Arc::default();
        Self { trimmed, profile, next: Position(1), is_busy: false, events, waker: None }
    }

    /// One in which these records are followed by an accepted restore, and the floor to which it is trimmed.
    pub(super) fn restored(operations: Vec<Operation>) -> (Self, Arc<Mutex<Option<Floor>>>) {
        let mut log = Self::new();
        let bytes = Record { digest: None, operations }.encode().unwrap().into();
        let record = Delivered { at: Position(1), author: ReplicaId(1), lane: None, bytes };
        let at = Position(1 << 40);
        log.events.insert(1, Event::Record(record));
        log.events.insert(2, Event::Restored { at });
        log.next = at.after(1);
        let trimmed = log.trimmed.clone();
        (log, trimmed)
    }

    fn push(&mut self, event: Event) {
        self.events.push_back(event);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Log for MemoryLog {
    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn is_idle(&self, lane: usize) -> bool {
        lane == 0 && !self.is_busy
    }

    fn append(&mut self, lane: usize, draft: Draft) -> Result<(), LogError> {
        let (at, author) = (self.next, ReplicaId(7));
        (self.next, self.is_busy) = (self.next.after(u64::from(draft.operations)), true);
        let record = Delivered { at, author, lane: Some(lane), bytes: draft.bytes };
        // Other events may come before a record that was appended.
        self.push(Event::Barrier(u64::MAX));
        self.push(Event::Record(record));
        Ok(())
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        match self.events.pop_front() {
            Some(event) => {
                self.is_busy &= !matches!(event, Event::Record(_));
                Poll::Ready(event)
            }
            None => {
                self.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn sync(&mut self) -> Result<Position, LogError> {
        Ok(Position(self.next.0 - 1))
    }

    fn barrier(&mut self, number: u64) {
        self.push(Event::Barrier(number));
    }

    fn standing(&self) -> Standing {
        Standing { promise_until: None, is_fresh: true, confirmed: None }
    }

    fn bytes_after_floor(&self) -> u64 {
        0
    }

    fn write_chunk(&mut self, _: Position, _: Bytes) -> Result<(), LogError> {
        Ok(())
    }

    fn finish_checkpoint(&mut self, floor: Position) -> Result<(), LogError> {
        self.push(Event::Checkpoint { floor, which: 1, chunks: 1 });
        Ok(())
    }

    fn trim(&mut self, floor: &Floor) -> Result<(), LogError> {
        *self.trimmed.lock() = Some(*floor);
        Ok(())
    }
}
