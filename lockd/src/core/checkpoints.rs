//! Checkpoints, a little a turn. One that is written nowhere comes in between: it compares what is in memory
//! with its digest (RULES J29).

use std::time::Duration;

use lockd_proto::clock::Instant;

use super::{Core, TICK, apply::broken, restored::Hold, tickets::Ticket};
use crate::{
    log::{Log, LogError},
    record::{Floor, Operation, Position},
};

/// The log may be this much larger than what lives before a checkpoint begins.
const SLACK_BYTES: u64 = 4 * 1024 * 1024;

/// The size of a chunk.
const CHUNK_BYTES: usize = 48 * 1024;

/// How long a checkpoint that found no room is not begun again.
const PAUSE: Duration = Duration::from_secs(10);

/// How often what is in memory is compared with its digest.
const SCRUB_INTERVAL: Duration = Duration::from_mins(10);

/// How much of it is looked at in one turn, and no more than that a tick.
const SCRUB_BYTES: usize = 256 * 1024;

/// The checkpoint that is being written.
#[derive(Debug, Default)]
pub(super) struct Checkpoints {
    phase: Phase,
    not_before: Option<Instant>,
    /// A floor that was applied and is not trimmed to yet.
    trim: Option<Floor>,
    /// When the next part of what is in memory is compared with its digest.
    scrub_at: Option<Instant>,
}

#[derive(Debug, Default)]
enum Phase {
    #[default]
    Idle,
    /// The state is compared with its digest.
    Scrubbing,
    Writing(Position),
    /// All is written, and not known to be durable yet.
    Finishing(Floor),
    /// Its floor was proposed.
    Proposed,
}

impl Checkpoints {
    pub(super) fn give_up(&mut self) {
        self.phase = Phase::Idle;
    }
}

impl<L: Log> Core<L> {
    /// Whether there is more to write. While two replicas differ nothing is: it might be wrong.
    pub(super) fn is_writing(&self) -> bool {
        matches!(self.checkpoints.phase, Phase::Writing(_)) && !self.digests.are_in_doubt()
    }

    /// Begins a checkpoint where one is due, and writes a chunk of the one that has begun.
    pub(super) fn write_checkpoint(&mut self) -> Result<(), LogError> {
        if self.me.is_none() {
            return Ok(());
        }
        match self.checkpoints.phase {
            Phase::Idle | Phase::Scrubbing if self.is_checkpoint_due() => {
                let floor = self.state.begin_checkpoint();
                self.checkpoints.phase = Phase::Writing(floor);
            }
            Phase::Idle | Phase::Scrubbing => return self.scrub(),
            Phase::Writing(floor) if self.is_writing() && self.log.takes_chunks() => {
                return self.write_chunk(floor);
            }
            Phase::Writing(_) | Phase::Finishing(_) | Phase::Proposed => {}
        }
        Ok(())
    }

    /// Looks at a part of what is in memory. What an operation has made and a flipped bit has changed is in no
    /// digest before.
    fn scrub(&mut self) -> Result<(), LogError> {
        let at = *self.checkpoints.scrub_at.get_or_insert(self.now + SCRUB_INTERVAL);
        if self.now < at {
            return Ok(());
        }
        if let Phase::Idle = self.checkpoints.phase {
            self.state.begin_scrub();
            self.checkpoints.phase = Phase::Scrubbing;
        }
        self.checkpoints.scrub_at = Some(self.now + TICK);
        if self.state.next_chunk(SCRUB_BYTES).is_none() {
            self.state.finish_checkpoint().map_err(broken)?;
            self.checkpoints.phase = Phase::Idle;
            self.checkpoints.scrub_at = Some(self.now + SCRUB_INTERVAL);
        }
        Ok(())
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
        let settled = self.checkpoints.trim.is_none() && !self.digests.are_in_doubt();
        large && first && !early && settled
    }

    fn write_chunk(&mut self, floor: Position) -> Result<(), LogError> {
        let written = match self.state.next_chunk(CHUNK_BYTES) {
            Some(chunk) if chunk.is_empty() => Ok(()),
            Some(chunk) => self.log.write_chunk(floor, chunk.into()),
            None => {
                let finished = self.state.finish_checkpoint().map_err(broken)?.unwrap_or_default();
                self.checkpoints.phase = Phase::Finishing(finished);
                self.log.finish_checkpoint(floor)
            }
        };
        if let Err(error) = written {
            tracing::warn!(%error, "a checkpoint was given up: the log stays long for now");
            self.state.give_up_checkpoint();
            self.checkpoints.phase = Phase::Idle;
            self.checkpoints.not_before = Some(self.now + PAUSE);
        }
        Ok(())
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
        self.state.give_up_checkpoint();
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
}
