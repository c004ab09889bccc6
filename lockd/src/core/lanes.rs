//! The way of operations to the log and back.
//!
//! A session always uses the same lane, so that its operations keep their order. A lane has one record
//! under way; what is proposed meanwhile waits, up to a limit, and leaves together.

use std::{
    collections::VecDeque,
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use lockd_proto::{SessionId, clock::Instant};

use super::{
    Core,
    error::Error,
    tickets::{Proposal, Ticket},
    timers::{Due, Timer},
};
use crate::{
    log::{Draft, Log, LogError, MAX_OPERATIONS, Room},
    record::{Operation, Record},
    telemetry::metrics,
};

/// Operations that wait for a lane. More are refused: the log can't keep up, or is away.
const MAX_WAITING: usize = 16 * 1024;

/// Bytes of a record beyond which no further operation goes into it. One operation may add what is
/// allowed of an acquire or a result.
const RECORD_BYTES: usize = 128 * 1024;

/// How long an operation may be in flight before its caller is answered [`Error::OutcomeUnknown`].
const PATIENCE: Duration = Duration::from_secs(10);

/// The lanes of a log.
#[derive(Debug)]
pub(super) struct Lanes {
    all: Vec<Lane>,
    /// Operations that were appended and are not known to be durable.
    uncommitted: usize,
}

#[derive(Debug, Default)]
struct Lane {
    waiting: VecDeque<Proposal>,
    /// What is under way, in the order of its operations.
    under_way: Vec<Proposal>,
}

impl Lanes {
    pub(super) fn new(count: usize) -> Self {
        let all = (0..count.max(1)).map(|_| Lane::default()).collect();
        Self { all, uncommitted: 0 }
    }

    fn lane_of(&mut self, session: Option<SessionId>) -> &mut Lane {
        let mut hasher = DefaultHasher::new();
        session.hash(&mut hasher);
        let count = self.all.len() as u64;
        let lane = usize::try_from(hasher.finish() % count).unwrap_or_default();
        // There is at least one, and `lane` is less than their number.
        #[allow(clippy::indexing_slicing, reason = "the remainder is within the length")]
        &mut self.all[lane]
    }

    /// Takes what is under way on a lane: its record has landed, or never will.
    pub(super) fn landed(&mut self, lane: usize) -> Vec<Proposal> {
        self.all.get_mut(lane).map(|lane| std::mem::take(&mut lane.under_way)).unwrap_or_default()
    }

    /// Takes everything, under way or not.
    pub(super) fn take_all(&mut self) -> Vec<Proposal> {
        let all = self.all.iter_mut();
        all.flat_map(|lane| lane.under_way.drain(..).chain(lane.waiting.drain(..))).collect()
    }

    /// How many operations were appended since this was last asked.
    pub(super) fn take_uncommitted(&mut self) -> usize {
        std::mem::take(&mut self.uncommitted)
    }

    fn old(&mut self, before: Instant) -> Vec<Ticket> {
        let all = self.all.iter_mut();
        let proposals = all.flat_map(|lane| lane.under_way.iter_mut().chain(&mut lane.waiting));
        let old = proposals.filter(|it| it.since < before);
        old.filter_map(|it| it.ticket.give_up()).collect()
    }
}

/// The session whose lane an operation takes.
fn session_of(operation: &Operation) -> Option<SessionId> {
    match operation {
        Operation::Open(open) => Some(open.session),
        Operation::Attach(attach) => Some(attach.session),
        Operation::Enqueue(enqueue) => Some(enqueue.session),
        Operation::Release(release) => Some(release.session),
        Operation::End { session, .. }
        | Operation::Close { session }
        | Operation::Cancel { session, .. }
        | Operation::Update { session, .. } => Some(*session),
        Operation::Start
        | Operation::EndWait { .. }
        | Operation::Lapse { .. }
        | Operation::Force { .. }
        | Operation::Yield { .. }
        | Operation::Forget { .. }
        | Operation::Level(_)
        | Operation::Floor(_) => None,
    }
}

/// What space an operation may use: what frees more than it takes may use the reserve.
fn room_of(operation: &Operation) -> Room {
    match operation {
        Operation::Open(_)
        | Operation::Enqueue(_)
        | Operation::Update { .. }
        | Operation::Yield { .. }
        | Operation::Level(_) => Room::Ordinary,
        Operation::Start
        | Operation::Attach(_)
        | Operation::End { .. }
        | Operation::Close { .. }
        | Operation::Cancel { .. }
        | Operation::Release(_)
        | Operation::EndWait { .. }
        | Operation::Lapse { .. }
        | Operation::Force { .. }
        | Operation::Forget { .. }
        | Operation::Floor(_) => Room::Reserve,
    }
}

/// About how many bytes an operation has.
fn size_of(operation: &Operation) -> usize {
    match operation {
        Operation::Enqueue(enqueue) => {
            let metadata = enqueue.info.metadata.iter();
            let metadata: usize = metadata.map(|(key, value)| key.len() + value.len()).sum();
            let locks: usize = enqueue.locks.iter().map(|lock| lock.name().len() + 32).sum();
            128 + metadata + locks + enqueue.info.value.len() + enqueue.info.owner.len()
        }
        Operation::Attach(attach) => 64 + attach.open.as_ref().map_or(0, |open| open.len() * 16),
        Operation::Update { change, .. } => match change {
            crate::record::Change::Downgrade => 64,
            crate::record::Change::Value(bytes) | crate::record::Change::Result(bytes) => {
                64 + bytes.len()
            }
        },
        _ => 128,
    }
}

impl<L: Log> Core<L> {
    /// Proposes an operation. Its ticket is answered in the turn in which it is applied, or at once if
    /// too much waits already.
    pub(super) fn propose(&mut self, operation: Operation, ticket: Ticket) {
        let since = self.now;
        let lane = self.lanes.lane_of(session_of(&operation));
        if lane.waiting.len() < MAX_WAITING {
            lane.waiting.push_back(Proposal { operation, ticket, since });
            return;
        }
        let error = LogError::Unavailable("it does not keep up with what is asked for".to_owned());
        self.fail(ticket, Error::Log(error));
    }

    /// Appends what waits for idle lanes, a record each.
    pub(super) fn append(&mut self) -> Result<(), LogError> {
        if self.me.is_none() {
            return Ok(());
        }
        for lane in 0..self.lanes.all.len() {
            self.append_to(lane)?;
        }
        self.looks.ask_barrier(&mut self.log);
        Ok(())
    }

    fn append_to(&mut self, index: usize) -> Result<(), LogError> {
        while self.log.is_idle(index) {
            let Some(lane) = self.lanes.all.get_mut(index) else { return Ok(()) };
            let Some((proposals, room)) = lane.next_record() else { return Ok(()) };
            let (operations, tickets): (Vec<_>, Vec<_>) =
                proposals.into_iter().map(|it| (it.operation, (it.ticket, it.since))).unzip();
            let floor = operations.iter().find_map(|operation| match operation {
                Operation::Floor(floor) => Some(*floor),
                _ => None,
            });
            let digest = self.digests.next(&self.state, self.now);
            let count = u32::try_from(operations.len()).unwrap_or(u32::MAX);
            let record = Record { digest, operations };
            let bytes =
                record.encode().map_err(|error| LogError::Broken(error.to_string()))?.into();
            let draft = Draft { operations: count, bytes, room, floor };
            let appended = self.log.append(index, draft);
            let record_len = record.operations.len();
            let proposals = record.operations.into_iter().zip(tickets);
            let proposals: Vec<_> = proposals
                .map(|(operation, (ticket, since))| Proposal { operation, ticket, since })
                .collect();
            match (appended, self.lanes.all.get_mut(index)) {
                (Ok(()), Some(lane)) => {
                    lane.under_way = proposals;
                    self.lanes.uncommitted += record_len;
                    self.appended = self.now;
                    self.settle_soon();
                    return Ok(());
                }
                (Ok(()), None) => return Ok(()),
                (Err(error @ LogError::Broken(_)), _) => return Err(error),
                (Err(error), _) => self.no_room(index, proposals, room, &error),
            }
        }
        Ok(())
    }

    /// A record found no room. What may use the reserve is tried again without the rest.
    fn no_room(&mut self, index: usize, proposals: Vec<Proposal>, room: Room, error: &LogError) {
        let may_try = |it: &Proposal| room == Room::Ordinary && room_of(&it.operation) != room;
        let (again, refused): (Vec<_>, Vec<_>) = proposals.into_iter().partition(may_try);
        if let Some(lane) = self.lanes.all.get_mut(index) {
            again.into_iter().rev().for_each(|it| lane.waiting.push_front(it));
        }
        self.refuse(refused, error);
    }

    /// Answers those whose operations were not applied, and never will be.
    pub(super) fn refuse(&mut self, proposals: Vec<Proposal>, error: &LogError) {
        if !proposals.is_empty() {
            metrics::not_committed();
        }
        for proposal in proposals {
            if let Operation::Floor(_) = proposal.operation {
                self.checkpoints.give_up();
            }
            self.fail(proposal.ticket, Error::Log(error.clone()));
        }
    }

    /// Fails operations that have waited too long for the log: their outcome is unknown.
    pub(super) fn give_up_old_tickets(&mut self) {
        for ticket in self.lanes.old(self.now - PATIENCE) {
            self.fail(ticket, Error::OutcomeUnknown(PATIENCE));
        }
    }

    /// Has what is appended made durable soon after the last of it, though no answer rests on it.
    fn settle_soon(&mut self) {
        if !self.timers.is_set(Timer::Settle) {
            let at = self.appended + super::SETTLE_AFTER;
            self.timers.set(Timer::Settle, at, Due::Itself);
        }
    }

    /// While more is appended only what was answered early is made durable: what else there is to do
    /// waits until the log is idle.
    pub(super) fn settle(&mut self) {
        if self.now >= self.appended + super::SETTLE_AFTER {
            self.must_settle = true;
        } else {
            self.must_sync = true;
            self.settle_soon();
        }
    }
}

impl Lane {
    /// The next operations that fit in a record and may use the same space.
    fn next_record(&mut self) -> Option<(Vec<Proposal>, Room)> {
        let room = room_of(&self.waiting.front()?.operation);
        let mut bytes = 0;
        let mut proposals = Vec::with_capacity(self.waiting.len().min(MAX_OPERATIONS));
        while let Some(next) = self.waiting.front() {
            // A level stands alone in its record: what follows is of that level.
            let level = |it: &Proposal| matches!(it.operation, Operation::Level(_));
            let alone = level(next) || proposals.last().is_some_and(level);
            let full = proposals.len() == MAX_OPERATIONS || bytes >= RECORD_BYTES;
            if full || (alone && !proposals.is_empty()) {
                break;
            }
            bytes += size_of(&next.operation);
            proposals.extend(self.waiting.pop_front());
        }
        let mixed = |it: &Proposal| room_of(&it.operation) == Room::Ordinary;
        let room = if proposals.iter().any(mixed) { Room::Ordinary } else { room };
        Some((proposals, room))
    }
}
