//! What clients believe, by their own clocks, and whether that is true.

use std::collections::HashSet;

use lockd_proto::{
    SessionId,
    clock::{Clock, Instant},
};
use parking_lot::Mutex;

/// What one client believes.
#[derive(Debug)]
struct Belief {
    clock: Clock,
    session: Option<SessionId>,
    safe_until: Instant,
    /// The lock that it holds.
    holds: Option<&'static str>,
    /// How often it was granted its lock.
    grants: usize,
}

impl Belief {
    fn is_safe(&self) -> bool {
        self.clock.now() < self.safe_until
    }
}

/// What all clients believe, and what was wrong.
#[derive(Debug, Default)]
pub(super) struct Beliefs {
    all: Mutex<Vec<Belief>>,
    ended: Mutex<HashSet<SessionId>>,
    wrong: Mutex<Vec<String>>,
}

impl Beliefs {
    pub(super) fn add(&self, clock: Clock) {
        let safe_until = clock.now();
        let belief = Belief { clock, session: None, safe_until, holds: None, grants: 0 };
        self.all.lock().push(belief);
    }

    pub(super) fn wrong(&self, what: String) {
        self.wrong.lock().push(what);
    }

    /// What was wrong so far.
    pub(super) fn take_wrong(&self) -> Vec<String> {
        std::mem::take(&mut self.wrong.lock())
    }

    pub(super) fn is_safe(&self, client: usize) -> bool {
        self.all.lock()[client].is_safe()
    }

    /// A client begins a session, or is no more.
    pub(super) fn begins(&self, client: usize, session: Option<SessionId>) {
        let belief = &mut self.all.lock()[client];
        (belief.session, belief.holds) = (session, None);
        belief.safe_until = belief.clock.now();
    }

    /// A client's lease was renewed.
    pub(super) fn renewed(&self, client: usize, until: Instant) {
        let belief = &mut self.all.lock()[client];
        belief.safe_until = belief.safe_until.max(until);
        let ended = belief.session.is_some_and(|session| self.ended.lock().contains(&session));
        if ended && belief.is_safe() {
            let left = belief.safe_until.saturating_duration_since(belief.clock.now());
            self.wrong(format!("client {client} counts an answer {left:?} beyond its end"));
        }
    }

    /// A session has ended, though its client did not ask for that.
    pub(super) fn ended(&self, session: SessionId) {
        self.ended.lock().insert(session);
        let all = self.all.lock();
        for (client, belief) in all.iter().enumerate() {
            if belief.session == Some(session) && belief.is_safe() {
                let left = belief.safe_until.saturating_duration_since(belief.clock.now());
                self.wrong(format!("client {client} is safe for {left:?} when its session ends"));
            }
        }
    }

    /// A client was granted its lock.
    pub(super) fn holds(&self, client: usize, lock: &'static str) {
        let mut all = self.all.lock();
        let mut others = all.iter().enumerate().filter(|(other, _)| *other != client);
        let holder = others.find(|(_, it)| it.holds == Some(lock) && it.is_safe());
        if let (Some((other, _)), true) = (holder, all[client].is_safe()) {
            self.wrong(format!("clients {client} and {other} both hold {lock}"));
        }
        all[client].holds = Some(lock);
        all[client].grants += 1;
    }

    pub(super) fn releases(&self, client: usize) {
        self.all.lock()[client].holds = None;
    }

    /// How often each client was granted its lock.
    pub(super) fn grants(&self) -> Vec<usize> {
        self.all.lock().iter().map(|belief| belief.grants).collect()
    }

    /// The sessions that clients live in.
    pub(super) fn sessions(&self) -> Vec<SessionId> {
        self.all.lock().iter().filter_map(|belief| belief.session).collect()
    }
}
