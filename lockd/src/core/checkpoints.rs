//! Checkpoints, a little a turn, and the digests by which replicas notice that they differ.

use std::{collections::VecDeque, time::Duration};

use lockd_proto::clock::Instant;

use super::{Core, restored::Hold, tickets::Ticket};
use crate::{
    log::{Log, LogError},
    record::{Floor, Operation, Position, ReplicaId},
    state::State,
};

/// The log may be this much larger than what lives before a checkpoint begins.
const SLACK_BYTES: u64 = 4 * 1024 * 1024;

/// The size of a chunk.
const CHUNK_BYTES: usize = 48 * 1024;

/// How long a checkpoint that found no room is not begun again.
const PAUSE: Duration = Duration::from_secs(10);

/// How often a record carries a digest.
const DIGEST_INTERVAL: Duration = Duration::from_secs(1);

/// Positions whose digest is kept, to be compared with what others say.
const DIGESTS: usize = 4096;

/// The checkpoint that is being written, and digests.
#[derive(Debug, Default)]
pub(super) struct Checkpoints {
    phase: Phase,
    not_before: Option<Instant>,
    /// A floor that was applied and is not trimmed to yet.
    trim: Option<Floor>,
    digest_at: Option<Instant>,
    digests: VecDeque<(Position, u128)>,
}

#[derive(Debug, Default)]
enum Phase {
    #[default]
    Idle,
    Writing(Position),
    /// All is written, and not known to be durable yet.
    Finishing(Floor),
    /// Its floor was proposed.
    Proposed,
}

impl Checkpoints {
    pub(super) fn has_work(&self) -> bool {
        matches!(self.phase, Phase::Writing(_))
    }

    pub(super) fn give_up(&mut self) {
        self.phase = Phase::Idle;
    }

    /// The digest that goes with the next record, now and then.
    pub(super) fn next_digest(&mut self, state: &State, now: Instant) -> Option<(Position, u128)> {
        let due = self.digest_at.is_none_or(|at| now >= at);
        due.then(|| {
            self.digest_at = Some(now + DIGEST_INTERVAL);
            (state.position(), state.digest())
        })
    }

    /// A record was applied.
    pub(super) fn note(&mut self, state: &State) {
        if self.digests.len() == DIGESTS {
            self.digests.pop_front();
        }
        self.digests.push_back((state.position(), state.digest()));
    }

    /// Whether a digest that came with a record is that of this replica at the same place. One that is too
    /// old is not compared.
    pub(super) fn differs(&self, digest: Option<(Position, u128)>) -> Option<Position> {
        let (at, theirs) = digest?;
        let found = self.digests.binary_search_by_key(&at, |(at, _)| *at).ok()?;
        let (_, ours) = self.digests.get(found)?;
        (*ours != theirs).then_some(at)
    }
}

impl<L: Log> Core<L> {
    /// Begins a checkpoint where one is due, and writes a chunk of the one that has begun.
    pub(super) fn write_checkpoint(&mut self) {
        if self.me.is_none() {
            return;
        }
        match self.checkpoints.phase {
            Phase::Idle if self.is_checkpoint_due() => {
                let floor = self.state.begin_checkpoint();
                self.checkpoints.phase = Phase::Writing(floor);
            }
            Phase::Writing(floor) if self.log.takes_chunks() => {
                if let Err(error) = self.write_chunk(floor) {
                    tracing::warn!(%error, "a checkpoint was given up: the log stays long for now");
                    self.state.give_up_checkpoint();
                    self.checkpoints.phase = Phase::Idle;
                    self.checkpoints.not_before = Some(self.now + PAUSE);
                }
            }
            Phase::Idle | Phase::Writing(_) | Phase::Finishing(_) | Phase::Proposed => {}
        }
    }

    fn is_checkpoint_due(&self) -> bool {
        let early = self.checkpoints.not_before.is_some_and(|at| self.now < at);
        let first = self.state.replicas().next() == self.me;
        let large = match self.hold {
            Hold::None => self.log.bytes_after_floor() > self.state.bytes() + SLACK_BYTES,
            // A start after it would count no time.
            Hold::Found(_) | Hold::Until(_) => false,
            Hold::Over => true,
        };
        large && first && !early && self.checkpoints.trim.is_none()
    }

    fn write_chunk(&mut self, floor: Position) -> Result<(), LogError> {
        match self.state.next_chunk(CHUNK_BYTES) {
            Some(chunk) if chunk.is_empty() => Ok(()),
            Some(chunk) => self.log.write_chunk(floor, chunk.into()),
            None => {
                let finished = self.state.finish_checkpoint().unwrap_or_default();
                self.checkpoints.phase = Phase::Finishing(finished);
                self.log.finish_checkpoint(floor)
            }
        }
    }

    pub(super) fn checkpoint_is_durable(&mut self, at: Position, which: u64, chunks: u64) {
        if let Phase::Finishing(floor) = self.checkpoints.phase
            && floor.at == at
        {
            self.checkpoints.phase = Phase::Proposed;
            let floor = Floor { which, chunks, ..floor };
            self.propose(Operation::Floor(floor), Ticket::None);
        }
    }

    /// A floor was applied: once it is durable, what is below it is deleted (RULES T3).
    pub(super) fn floor_is_raised(&mut self, floor: &Floor) {
        if let Phase::Writing(at) = self.checkpoints.phase
            && at <= floor.at
        {
            self.state.give_up_checkpoint();
        }
        self.checkpoints.phase = Phase::Idle;
        self.checkpoints.trim = Some(*floor);
        if self.hold == Hold::Over {
            self.hold = Hold::None;
        }
        self.must_sync = true;
    }

    /// Deletes what the newest floor has made needless.
    pub(super) fn trim(&mut self) -> Result<(), LogError> {
        match self.checkpoints.trim.take() {
            Some(floor) => self.log.trim(&floor),
            None => Ok(()),
        }
    }

    /// Notes whether a replica that wrote a record was of one mind with this one.
    pub(super) fn compare(
        &mut self,
        digest: Option<(Position, u128)>,
        author: ReplicaId,
    ) -> Result<(), LogError> {
        let Some(at) = self.checkpoints.differs(digest) else { return Ok(()) };
        let text = format!(
            "the state at position {at} is another one than replica {author} had there: one of them is \
             damaged, or a version of lockd applies the log in another way; stop all replicas and \
             start one, which reads the log anew"
        );
        Err(LogError::Broken(text))
    }
}
