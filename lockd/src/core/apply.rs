//! What the log delivers, applied in order.

use std::time::Duration;

use super::{
    Core,
    error::Error,
    restored::Hold,
    tickets::{Proposal, Ticket},
    timers::{Due, Timer},
};
use crate::{
    log::{Delivered, Event, Log, LogError},
    record::{Operation, Record, ReplicaId},
    state::{Context, Moment, Restore, State},
    telemetry::metrics,
};

impl<L: Log> Core<L> {
    pub(super) fn event(&mut self, event: Event) -> Result<(), LogError> {
        match event {
            Event::Reset => self.reset(),
            Event::Chunk(chunk) => self.restore.chunk(&chunk).map_err(broken)?,
            Event::Floor(floor) => {
                let restore = std::mem::take(&mut self.restore);
                self.state = restore.finish(&floor).map_err(broken)?;
                self.digests.note(&self.state);
                self.durable = self.durable.max(floor.at);
            }
            Event::Restored { at } => self.restored(at),
            Event::Record(delivered) => self.delivered(&delivered)?,
            Event::Live(me) => self.live(me),
            Event::Joined { at, replica, level } => self.state.joined(at, replica, level),
            Event::Left { at, replica } => self.replica_left(at, replica),
            Event::Refused { lane, error } => {
                let proposals = self.lanes.landed(lane);
                self.refuse(proposals, &error);
            }
            Event::Barrier(number) => self.passed_barrier(number),
            Event::Checkpoint { floor, which, chunks } => {
                self.checkpoint_is_durable(floor, which, chunks)
            }
            Event::Again(event) => self.read_again(event.map(|event| *event))?,
            Event::Failed(error) => return Err(error),
        }
        Ok(())
    }

    /// The state begins anew. Callers that wait here have to retry: what happened meanwhile is not
    /// known by its reasons (RULES T9).
    fn reset(&mut self) {
        (self.restore, self.hold) = (Restore::default(), Hold::default());
        self.state = State::default();
        self.digests.reset();
        if self.me.take().is_some() {
            tracing::warn!("deliveries of the log were missed: it is read again");
            self.forget_all(&Error::ViewEmpty);
        }
    }

    fn delivered(&mut self, delivered: &Delivered) -> Result<(), LogError> {
        let own = delivered.lane.map(|lane| self.lanes.landed(lane)).unwrap_or_default();
        let mut at = delivered.at;
        let author = delivered.author;
        if own.is_empty() {
            let record = Record::decode(&delivered.bytes).map_err(broken)?;
            self.compare(record.digest, author)?;
            for operation in record.operations {
                let (ticket, since) = (Ticket::None, self.now);
                self.apply(Proposal { operation, ticket, since }, (at, author));
                at = at.after(1);
            }
        } else {
            if self.log.profile().is_shared
                && let Some(first) = own.first()
            {
                let took = self.now.saturating_duration_since(first.since);
                metrics::committed(own.len(), took);
            }
            for proposal in own {
                self.apply(proposal, (at, author));
                at = at.after(1);
            }
        }
        self.digests.note(&self.state);
        Ok(())
    }

    fn apply(&mut self, proposal: Proposal, (at, author): (crate::record::Position, ReplicaId)) {
        let Proposal { operation, ticket, .. } = proposal;
        // Before it is live a replica sees nothing as it happens.
        let now = if self.me.is_some() { self.moment() } else { 0 };
        let cx = Context { at, author, now };
        let mut effects = std::mem::take(&mut self.effects);
        let outcome = self.state.apply(operation, cx, &mut effects);
        self.work += 1 + effects.len();
        let own = self.answer(ticket, outcome, cx);
        // What is read back has been heard of before.
        let is_live = self.me.is_some();
        for effect in effects.drain(..).filter(|_| is_live) {
            self.notify(effect, own);
        }
        self.effects = effects;
    }

    /// The log has been read. What this replica counts from now on is what it finds.
    fn live(&mut self, me: ReplicaId) {
        self.me = Some(me);
        self.begin_hold();
        tracing::info!(
            replica = %me,
            position = %self.state.position(),
            sessions = self.state.counts().sessions,
            locks = self.state.counts().locks,
            "the log has been read"
        );
        if !self.log.profile().is_shared {
            self.propose(Operation::Start, Ticket::None);
        }
        self.digests.retain_alive(&self.state);
        self.count_what_is_there();
        self.search_all_owners();
    }

    fn replica_left(&mut self, at: crate::record::Position, replica: ReplicaId) {
        self.state.left(at, replica);
        self.digests.left(replica);
        if self.me == Some(replica) {
            self.me = None;
            tracing::warn!(%replica, "this replica's lease was lost: it comes back under a new name");
            self.forget_all(&Error::ViewEmpty);
        } else {
            self.count_sessions_of(replica);
        }
    }

    /// Fails everything that is in flight or waits, so that clients retry: their leases go on.
    fn forget_all(&mut self, why: &Error) {
        // Before their requests fail: what became of those is not known, and they are asked again (RULES T9).
        self.streams.end_all(why);
        for proposal in self.lanes.take_all() {
            self.fail(proposal.ticket, why.clone());
        }
        self.fail_calls(why);
        self.fail_looks(why);
        self.observers.end_all(why);
        self.checkpoints.give_up();
        self.state.give_up_checkpoint();
        self.leases = super::Leases::default();
        self.timers = super::Timers::default();
        self.timers.set(Timer::Tick, self.now + super::TICK, Due::Itself);
    }

    fn moment(&self) -> Moment {
        let since = self.now.saturating_duration_since(self.origin);
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }

    /// How long ago a moment was; `None` if it was not seen.
    pub(super) fn since(&self, moment: Moment) -> Option<Duration> {
        (moment != 0).then(|| Duration::from_nanos(self.moment().saturating_sub(moment)))
    }
}

/// What can't be read ends the replica, before it applies any of it.
pub(super) fn broken(error: impl std::fmt::Display) -> LogError {
    LogError::Broken(error.to_string())
}
