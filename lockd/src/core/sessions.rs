//! Sessions as this replica keeps them: whose silence it counts, and what it ends.

use std::time::Duration;

use lockd_proto::{SessionId, clock::Instant, safety_margin};

use super::{
    Core,
    answer::Answer,
    ask::StreamKey,
    leases::{self, Silence},
    tickets::Ticket,
    timers::{Due, Timer},
};
use crate::{
    log::Log,
    record::{LockId, Operation, Position, ReplicaId, WaitEnd},
    state::Entry,
    telemetry::metrics,
};

/// How long a replica waits after another one whose name comes first before it proposes what any of
/// them may propose.
const TURN: Duration = Duration::from_millis(500);

impl<L: Log> Core<L> {
    /// A session was attached. If it was by this replica, its silence counts from now on.
    pub(super) fn attached(&mut self, session: SessionId, epoch: Position, is_new: bool) {
        let Some(there) = self.state.session(session) else { return };
        let (mine, ttl) = (self.me == Some(there.author), millis(there.ttl_ms.into()));
        let is_newer = self.streams.number(session).is_some_and(|number| number < there.stream);
        self.leases.forget(session);
        self.timers.clear(Timer::Lease(session));
        if mine {
            // Until then the replica that it comes from may have answered (RULES L1, L2).
            let longer = if is_new { Duration::ZERO } else { self.log.promise_window() };
            self.count(session, epoch, (self.now + longer, ttl));
        }
        if !mine || is_newer {
            self.streams.superseded(session);
        }
    }

    fn count(&mut self, session: SessionId, epoch: Position, from: (Instant, Duration)) {
        let over = self.leases.count(session, epoch, from);
        self.timers.set(Timer::Lease(session), over, Due::Itself);
    }

    /// A session has ended: nothing of it is counted any more.
    pub(super) fn forget_session(&mut self, session: SessionId) {
        self.leases.forget(session);
        self.timers.clear(Timer::Lease(session));
    }

    /// A session's client was heard of.
    pub(super) fn heard(&mut self, session: SessionId) {
        if let Some(left) = self.leases.heard(session, self.now) {
            metrics::renewed(left);
        }
    }

    pub(super) fn look_at_lease(&mut self, session: SessionId) {
        match self.leases.silence(session, self.now) {
            Silence::NotCounted => {}
            Silence::Until(at) => self.timers.set(Timer::Lease(session), at, Due::Itself),
            Silence::Over { epoch } => {
                // It is proposed again, if this one is lost.
                self.timers.set(Timer::Lease(session), self.now + TURN, Due::Itself);
                tracing::debug!(%session, "its client has fallen silent");
                self.propose(Operation::End { session, epoch }, Ticket::None);
            }
        }
    }

    /// What a replica counts that has just read the log: the sessions whose replica is gone, lock-delays,
    /// and waits that no replica counts any more.
    pub(super) fn count_what_is_there(&mut self) {
        let kept = |author| Some(author) != self.me && self.state.is_alive(author);
        let shared = self.log.profile().is_shared;
        let all = self.state.sessions().filter(|session| !shared || !kept(session.author));
        let all: Vec<_> = all.map(|it| (it.id, it.epoch, it.ttl_ms)).collect();
        for (session, epoch, ttl_ms) in all {
            self.count(session, epoch, (self.now, millis(ttl_ms.into())));
        }
        let delayed: Vec<_> = self
            .state
            .delayed()
            .filter_map(|(entry, since)| {
                let lock = entry.locks.as_slice().first()?.clone();
                Some((lock, entry.token, since, entry.lock_delay_ms))
            })
            .collect();
        for (lock, token, since, delay_ms) in delayed {
            self.delayed(lock, token, (since, delay_ms));
        }
        self.count_orphaned_waits(|state, author| !state.is_alive(author));
    }

    /// The sessions of a replica that is gone count from now on, as do the waits of its calls.
    pub(super) fn count_sessions_of(&mut self, replica: ReplicaId) {
        let all = self.state.sessions().filter(|session| session.author == replica);
        let all: Vec<_> = all.map(|it| (it.id, it.epoch, it.ttl_ms)).collect();
        for (session, epoch, ttl_ms) in all {
            self.count(session, epoch, (self.now, millis(ttl_ms.into())));
        }
        self.count_orphaned_waits(|_, author| author == replica);
    }

    /// A wait that a replica was asked for which is gone ends if its client does not ask again in time
    /// (RULES J24, J27c). Later than its session does, whose client may be gone too.
    fn count_orphaned_waits(&mut self, is_gone: impl Fn(&crate::state::State, ReplicaId) -> bool) {
        let state = &self.state;
        let gone = state.waits().filter(|entry| is_gone(state, entry.asker.author));
        let gone: Vec<_> = gone.filter_map(|entry| self.orphaned(entry)).collect();
        for (token, at, due) in gone {
            self.timers.set(Timer::Wait(token), at, due);
        }
    }

    fn orphaned(&self, entry: &Entry) -> Option<(Position, Instant, Due)> {
        let ttl = millis(self.state.session(entry.session)?.ttl_ms.into());
        let lock = entry.locks.as_slice().first()?.clone();
        let due = Due::EndWait { lock, claim: entry.asker.claim, why: WaitEnd::Withdrawn };
        Some((entry.token, self.now + ttl + safety_margin(ttl) + TURN, due))
    }

    /// An entry stays for its lock-delay. The replica whose name comes first ends it in time, the others
    /// later, each by its own clock.
    pub(super) fn delayed(
        &mut self,
        lock: LockId,
        token: Position,
        (since, delay_ms): (Position, u32),
    ) {
        let place = self.state.replicas().take_while(|it| Some(*it) != self.me).count();
        let place = u32::try_from(place).unwrap_or(u32::MAX);
        let at = self.now + millis(delay_ms.into()) + TURN.saturating_mul(place);
        tracing::info!(%lock, %token, delay_ms, "stays taken after a loss");
        self.timers.set(Timer::Delay(token), at, Due::Lapse { lock, since });
    }

    pub(super) fn lapse(&mut self, lock: LockId, token: Position, since: Position) {
        if self.state.entry_at(&lock, token).is_none() {
            return;
        }
        // It is proposed again, if this one is lost.
        let again = Due::Lapse { lock: lock.clone(), since };
        self.timers.set(Timer::Delay(token), self.now + TURN, again);
        self.propose(Operation::Lapse { lock, token, since }, Ticket::None);
    }

    pub(super) fn end_wait(
        &mut self,
        lock: LockId,
        token: Position,
        (claim, why): (Position, WaitEnd),
    ) {
        // One that was asked for anew is another claim's, and its wait another one's to end.
        if self.state.entry_at(&lock, token).is_some_and(|entry| entry.asker.claim == claim) {
            self.propose(Operation::EndWait { lock, token, claim, why }, Ticket::None);
        }
    }

    pub(super) fn keep_alive(&mut self, stream: StreamKey, session: SessionId, sequence: u64) {
        let Some(there) = self.state.session(session) else {
            // A stream that is not attached yet is answered by its first answer.
            return;
        };
        let ttl = millis(there.ttl_ms.into());
        if self.me != Some(there.author) {
            return;
        }
        self.heard(session);
        match leases::promised(ttl, self.now, self.log.standing().promise_until) {
            Some(ttl) => self.streams.push(stream, Answer::KeepAliveAck { sequence, ttl }),
            // The client counts on, and asks elsewhere in time.
            None => metrics::not_renewed(),
        }
    }
}

pub(super) fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}
