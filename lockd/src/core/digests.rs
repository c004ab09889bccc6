//! Replicas that differ, and which of them is wrong (RULES J28, J29).
//!
//! Records carry the digest of their author's state now and then. A replica whose own was another one at
//! the same place reads the log once more from its floor, into a second state beside its own, and compares
//! that with what it had itself. If its own differs from what the log says it ends; else it goes on, and
//! says which replica is wrong. The other replica finds the same difference and does the same.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use lockd_proto::clock::Instant;

use super::{Core, apply::broken, tickets::Ticket};
use crate::{
    log::{Delivered, Event, Log, LogError},
    record::{Operation, Position, Record, ReplicaId},
    state::{Context, Restore, State},
};

/// How often a record carries a digest.
const INTERVAL: Duration = Duration::from_secs(1);

/// Places whose digest is kept, to be compared with those of others. An older one is not compared.
const KEPT: usize = 4096;

/// How long the log is not read once more after it could not be, or to no end.
const PAUSE: Duration = Duration::from_secs(60);

/// The digests of this replica, and what is known of those of others.
#[derive(Debug, Default)]
pub(super) struct Digests {
    next_at: Option<Instant>,
    /// The state's digest at the end of each record.
    own: VecDeque<(Position, u128)>,
    recount: Option<Recount>,
    not_before: Option<Instant>,
    /// Replicas that are there and whose state is not what the log says.
    wrong: BTreeSet<ReplicaId>,
}

/// The log that is read once more.
#[derive(Debug)]
struct Recount {
    /// The replica that differs from this one.
    other: ReplicaId,
    /// What this replica had when that was seen.
    own: VecDeque<(Position, u128)>,
    restore: Restore,
    state: State,
    verdict: Judgement,
}

/// What the places say that both states have come by.
#[derive(Debug, Clone, Copy)]
enum Judgement {
    /// There was none yet.
    Unknown,
    /// They were equal.
    OwnIsRight,
    /// They were not, at this place.
    OwnIsWrong(Position),
}

fn digest_at(own: &VecDeque<(Position, u128)>, at: Position) -> Option<u128> {
    let found = own.binary_search_by_key(&at, |(at, _)| *at).ok()?;
    own.get(found).map(|(_, digest)| *digest)
}

impl Digests {
    /// The digest that goes with the next record, now and then.
    pub(super) fn next(&mut self, state: &State, now: Instant) -> Option<(Position, u128)> {
        let due = self.next_at.is_none_or(|at| now >= at);
        due.then(|| {
            self.next_at = Some(now + INTERVAL);
            (state.position(), state.digest())
        })
    }

    /// A record was applied, or a checkpoint read.
    pub(super) fn note(&mut self, state: &State) {
        if self.own.len() == KEPT {
            self.own.pop_front();
        }
        self.own.push_back((state.position(), state.digest()));
    }

    /// Whether it is being found out which of two replicas is wrong.
    pub(super) fn are_in_doubt(&self) -> bool {
        self.recount.is_some()
    }

    /// The first of the replicas that differ from what the log says.
    pub(super) fn wrong(&self) -> Option<ReplicaId> {
        self.wrong.first().copied()
    }

    /// The state begins anew.
    pub(super) fn reset(&mut self) {
        self.own.clear();
        self.recount = None;
    }

    /// A replica is gone.
    pub(super) fn left(&mut self, replica: ReplicaId) {
        self.wrong.remove(&replica);
    }

    /// Keeps what is known only of replicas that are there.
    pub(super) fn retain_alive(&mut self, state: &State) {
        self.wrong.retain(|replica| state.is_alive(*replica));
    }

    fn found_wrong(&mut self, replica: ReplicaId) {
        if self.wrong.insert(replica) {
            tracing::error!(
                %replica,
                "the state of another replica is not what the log says: stop that one and start it again; \
                 compare the versions of lockd, and check the memory of its machine"
            );
        }
    }
}

impl Recount {
    fn new(other: ReplicaId, own: VecDeque<(Position, u128)>) -> Self {
        let (restore, state) = (Restore::default(), State::default());
        Self { other, own, restore, state, verdict: Judgement::Unknown }
    }

    /// Takes a piece of the log.
    fn take(&mut self, event: Event) -> Result<(), LogError> {
        match event {
            Event::Reset => *self = Self::new(self.other, std::mem::take(&mut self.own)),
            Event::Chunk(chunk) => self.restore.chunk(&chunk).map_err(broken)?,
            Event::Floor(floor) => {
                self.state = std::mem::take(&mut self.restore).finish(&floor).map_err(broken)?;
                self.compare();
            }
            Event::Record(delivered) => self.record(&delivered)?,
            Event::Joined { at, replica, level } => self.state.joined(at, replica, level),
            Event::Left { at, replica } => self.state.left(at, replica),
            Event::Restored { at } => self.state.restored(at),
            Event::Live(_) | Event::Refused { .. } | Event::Barrier(_) => {}
            Event::Checkpoint { .. } | Event::Again(_) | Event::Failed(_) => {}
        }
        Ok(())
    }

    fn record(&mut self, delivered: &Delivered) -> Result<(), LogError> {
        let record = Record::decode(&delivered.bytes).map_err(broken)?;
        let (mut at, author) = (delivered.at, delivered.author);
        let mut effects = Vec::new();
        for operation in record.operations {
            self.state.apply(operation, Context { at, author, now: 0 }, &mut effects);
            effects.clear();
            at = at.after(1);
        }
        self.compare();
        Ok(())
    }

    /// Compares the two states where both have been.
    fn compare(&mut self) {
        let (at, digest) = (self.state.position(), self.state.digest());
        match (digest_at(&self.own, at), self.verdict) {
            (None, _) | (_, Judgement::OwnIsWrong(_)) => {}
            (Some(own), _) if own == digest => self.verdict = Judgement::OwnIsRight,
            (Some(_), _) => self.verdict = Judgement::OwnIsWrong(at),
        }
    }
}

impl<L: Log> Core<L> {
    /// Compares the digest that came with a record with this replica's own at the same place.
    pub(super) fn compare(
        &mut self,
        digest: Option<(Position, u128)>,
        author: ReplicaId,
    ) -> Result<(), LogError> {
        let Some((at, theirs)) = digest else { return Ok(()) };
        let differs = digest_at(&self.digests.own, at).is_some_and(|own| own != theirs);
        if !differs || self.digests.wrong.contains(&author) {
            return Ok(());
        }
        if !self.log.profile().is_shared {
            return Err(LogError::Broken(format!(
                "the log on disk leads to another state at position {at} than it did when it was written: \
                 it is damaged, or this version of lockd applies it in another way; start the version \
                 that wrote it, or restore a backup"
            )));
        }
        if self.me.is_none() {
            // This state was made of the log just now.
            self.digests.found_wrong(author);
        } else if self.digests.recount.is_none()
            && self.digests.not_before.is_none_or(|at| self.now >= at)
        {
            self.recount(at, author);
        }
        Ok(())
    }

    fn recount(&mut self, at: Position, other: ReplicaId) {
        tracing::warn!(%at, replica = %other, "two replicas differ: the log is read once more");
        self.digests.recount = Some(Recount::new(other, self.digests.own.clone()));
        self.log.recount();
        // A record of this replica, so that the other one learns of the difference too.
        self.digests.next_at = None;
        self.propose(Operation::Level(self.state.level()), Ticket::None);
    }

    /// A piece of the log that is read once more; `None` at its end.
    pub(super) fn read_again(&mut self, event: Option<Event>) -> Result<(), LogError> {
        let Some(recount) = &mut self.digests.recount else { return Ok(()) };
        let other = recount.other;
        let (verdict, problem) = match event {
            Some(event) => match recount.take(event) {
                Ok(()) => return Ok(()),
                Err(error) => (Judgement::Unknown, error.to_string()),
            },
            None => (recount.verdict, "no place is known of both".to_owned()),
        };
        self.digests.recount = None;
        match verdict {
            Judgement::OwnIsRight => self.digests.found_wrong(other),
            Judgement::OwnIsWrong(at) => return Err(own_is_wrong(at)),
            Judgement::Unknown => {
                self.digests.not_before = Some(self.now + PAUSE);
                tracing::error!(problem, replica = %other, "two replicas differ, and none is known to be wrong");
            }
        }
        Ok(())
    }
}

fn own_is_wrong(at: Position) -> LogError {
    LogError::Broken(format!(
        "the state of this replica at position {at} is not what the log says: the memory of this machine \
         is damaged, or this version of lockd has a defect; start it again, on another machine if it \
         comes back"
    ))
}
