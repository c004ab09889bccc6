//! Deadlocks: found a bounded piece a turn, ended when they have stood for a while.
//!
//! A search begins where an owner has come to wait, or has one wait less: nothing else can close a
//! cycle. What it finds must stand for a moment, as in Postgres's `deadlock_timeout`, so that what is
//! being cancelled or released is gone by then; whether it still stands is judged where the end of its
//! youngest wait is applied. The replica that this wait was asked of proposes that.

use std::{
    collections::{HashSet, VecDeque},
    time::Duration,
};

use lockd_proto::clock::Instant;

use super::{
    Core,
    answer::{Deadlock, describe_cycle},
    tickets::Ticket,
    timers::{Due, Timer},
};
use crate::{
    log::Log,
    record::{Blocked, LockId, Operation, WaitEnd},
    state::{
        Entry, Owner,
        deadlock::{Cycle, Progress, Search},
    },
};

/// How long new waits are collected before they are looked at.
const COLLECT: Duration = Duration::from_millis(100);

/// How long a cycle must stand before it is ended.
const SETTLE: Duration = Duration::from_millis(400);

/// Places that a search looks at in one turn.
const STEPS_A_TURN: usize = 512;

/// Deadlocks that are remembered, for people.
const REMEMBERED: usize = 64;

/// The search for deadlocks, and what it has found.
#[derive(Debug, Default)]
pub(super) struct Deadlocks {
    /// Owners that may be stuck.
    pending: VecDeque<Owner>,
    known: HashSet<Owner>,
    /// Whether owners have been collected for long enough.
    looking: bool,
    search: Option<Search>,
    /// Cycles that were found, each with when it can be ended.
    standing: VecDeque<(Instant, Deadlock, Cycle)>,
    ended: VecDeque<(Instant, Deadlock)>,
}

impl Deadlocks {
    pub(super) fn look(&mut self) {
        self.looking = true;
    }

    pub(super) fn has_work(&self) -> bool {
        self.looking
    }

    /// The deadlocks that a lock was part of and that were ended, the latest first.
    pub(super) fn ended(&self, lock: &LockId) -> impl Iterator<Item = &(Instant, Deadlock)> {
        self.ended.iter().rev().filter(move |(_, deadlock)| deadlock.involves(lock))
    }

    /// The deadlock that a lock is part of.
    pub(super) fn standing(&self, lock: &LockId) -> Option<&Deadlock> {
        let standing = self.standing.iter().map(|(_, deadlock, _)| deadlock);
        standing.into_iter().find(|deadlock| deadlock.involves(lock))
    }

    fn next(&mut self) -> Option<Search> {
        let owner = self.pending.pop_front()?;
        self.known.remove(&owner);
        Some(Search::new(owner))
    }
}

impl<L: Log> Core<L> {
    /// An owner waits, or has one wait less.
    pub(super) fn owner_blocked(&mut self, owner: Owner) {
        if !self.deadlocks.known.insert(owner.clone()) {
            return;
        }
        self.deadlocks.pending.push_back(owner);
        if !self.timers.is_set(Timer::Deadlock) {
            self.timers.set(Timer::Deadlock, self.now + COLLECT, Due::Itself);
        }
    }

    /// Every owner that waits may be stuck, as far as a replica knows that has just read the log.
    pub(super) fn search_all_owners(&mut self) {
        let owners: Vec<_> = self.state.waits().filter_map(Entry::owner_path).collect();
        owners.into_iter().for_each(|owner| self.owner_blocked(owner));
    }

    /// Goes on with the search, up to its share of a turn, and ends what has stood for long enough.
    pub(super) fn search_deadlocks(&mut self) {
        if !self.deadlocks.looking {
            return;
        }
        self.end_standing();
        let search = self.deadlocks.search.take().or_else(|| self.deadlocks.next());
        let Some(mut search) = search else {
            self.deadlocks.looking = false;
            return;
        };
        match search.step(&self.state, STEPS_A_TURN) {
            Progress::More => self.deadlocks.search = Some(search),
            Progress::Nothing => {}
            Progress::Found(cycle) => self.found_cycle(cycle),
        }
    }

    fn found_cycle(&mut self, cycle: Cycle) {
        let known = |it: &(Instant, Deadlock, Cycle)| it.1.victim == cycle.victim;
        if self.deadlocks.standing.iter().any(known) {
            return;
        }
        let waits = cycle.waits.iter().cloned().collect();
        let deadlock = Deadlock { cycle: waits, victim: cycle.victim, ended: None };
        let at = self.now + SETTLE;
        self.deadlocks.standing.push_back((at, deadlock, cycle));
        self.timers.set(Timer::Deadlock, at, Due::Itself);
    }

    /// Proposes the end of the youngest wait of each cycle that has stood for long enough.
    fn end_standing(&mut self) {
        while let Some((at, ..)) = self.deadlocks.standing.front() {
            if *at > self.now {
                self.timers.set(Timer::Deadlock, *at, Due::Itself);
                return;
            }
            let Some((_, _, cycle)) = self.deadlocks.standing.pop_front() else { return };
            let Cycle { waits, victim: token, lock, others } = cycle;
            let Some(asker) = self.state.entry_at(&lock, token).map(|entry| entry.asker) else {
                continue;
            };
            if self.me == Some(asker.author) || !self.state.is_alive(asker.author) {
                let (claim, why) = (asker.claim, WaitEnd::Deadlock { cycle: waits, others });
                self.propose(Operation::EndWait { lock, token, claim, why }, Ticket::None);
            }
        }
    }

    /// A wait has ended as part of a deadlock.
    pub(super) fn deadlock_ended(&mut self, token: crate::record::Position, cycle: &[Blocked]) {
        let deadlock = Deadlock { cycle: cycle.into(), victim: token, ended: None };
        let text = describe_cycle(cycle);
        tracing::warn!(cycle = text, victim = %token, "a deadlock: its youngest wait has ended");
        if self.deadlocks.ended.len() == REMEMBERED {
            self.deadlocks.ended.pop_front();
        }
        self.deadlocks.ended.push_back((self.now, deadlock));
    }
}
