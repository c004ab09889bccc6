//! When each lease ends. In memory only: after a restart every lease starts anew.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use lockd_proto::{
    Ttl,
    clock::{Clock, Instant},
};
use tokio::sync::Notify;

use crate::store::LeaseId;

/// The deadlines of all leases. A plain mutex: held for map operations only.
#[derive(Debug)]
pub(super) struct Leases {
    clock: Clock,
    state: Mutex<State>,
    /// Woken when a lease may end earlier than all others.
    earlier: Notify,
}

#[derive(Debug, Default)]
struct State {
    leases: HashMap<LeaseId, Lease>,
    order: BTreeSet<(Instant, LeaseId)>,
}

#[derive(Debug, Clone, Copy)]
struct Lease {
    ttl: Ttl,
    ends: Instant,
}

impl Leases {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, state: Mutex::default(), earlier: Notify::new() }
    }

    /// Starts a lease, or starts it anew, from now.
    pub(super) fn start(&self, id: LeaseId, ttl: Ttl) {
        self.lock().set(id, Lease { ttl, ends: self.clock.now() + ttl.get() });
        self.earlier.notify_one();
    }

    /// Starts a lease anew if it has not ended.
    pub(super) fn renew(&self, id: LeaseId) -> bool {
        let mut state = self.lock();
        let Some(Lease { ttl, .. }) = state.leases.get(&id).copied() else { return false };
        state.set(id, Lease { ttl, ends: self.clock.now() + ttl.get() });
        true
    }

    pub(super) fn end(&self, id: LeaseId) {
        self.lock().remove(id);
    }

    pub(super) fn remaining(&self, id: LeaseId) -> Option<Duration> {
        let ends = self.lock().leases.get(&id)?.ends;
        Some(ends.saturating_duration_since(self.clock.now()))
    }

    /// Waits for leases to end, and takes them out: none can be renewed after that. Cancel
    /// safe.
    pub(super) async fn ended(&self) -> Vec<LeaseId> {
        loop {
            let earlier = self.earlier.notified();
            let next = {
                let mut state = self.lock();
                let ended = state.take_ended(self.clock.now());
                if !ended.is_empty() {
                    return ended;
                }
                state.order.first().map(|(ends, _)| *ends)
            };
            tokio::select! {
                () = earlier => {}
                () = sleep_until(&self.clock, next) => {}
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn sleep_until(clock: &Clock, at: Option<Instant>) {
    match at {
        Some(at) => clock.sleep_until(at).await,
        None => std::future::pending().await,
    }
}

impl State {
    fn set(&mut self, id: LeaseId, lease: Lease) {
        self.remove(id);
        self.order.insert((lease.ends, id));
        self.leases.insert(id, lease);
    }

    fn remove(&mut self, id: LeaseId) {
        if let Some(lease) = self.leases.remove(&id) {
            self.order.remove(&(lease.ends, id));
        }
    }

    fn take_ended(&mut self, now: Instant) -> Vec<LeaseId> {
        let mut ended = Vec::new();
        while let Some((ends, id)) = self.order.first().copied()
            && ends <= now
        {
            self.remove(id);
            ended.push(id);
        }
        ended
    }
}
