//! A lock that is held: what the session's task and the guard share, and the only way from
//! held to lost.

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use lockd_proto::clock::{Clock, Instant};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::lease::Standing;

/// Why a lock is no longer held.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LossReason {
    /// The lease was not renewed in time.
    Expired,
    /// An operator released the lock by force.
    Forced {
        /// The operator's reason.
        detail: String,
    },
    /// The session was closed.
    SessionClosed,
    /// The guard released the lock itself.
    Released,
    /// A party to the barrier has died or left early.
    Broken,
    /// The server no longer had the lock when the session was resumed there.
    Missing,
}

impl fmt::Display for LossReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expired => f.write_str("the lease was not renewed in time"),
            Self::Forced { detail } if detail.is_empty() => f.write_str("released by an operator"),
            Self::Forced { detail } => write!(f, "released by an operator: {detail}"),
            Self::SessionClosed => f.write_str("the session was closed"),
            Self::Released => f.write_str("released by this client"),
            Self::Broken => f.write_str("a party has died or left early"),
            Self::Missing => f.write_str("gone from the server while the stream was down"),
        }
    }
}

/// What a release found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Released {
    /// The lock was held until now, and is released.
    Released,
    /// The lock had been lost before.
    AlreadyLost,
    /// No server confirmed the release: the lock is free at the latest when its lease runs out.
    Unknown,
}

/// How a held lock stands. `Lost` is final.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LockState {
    /// The lease is renewed on time.
    Held,
    /// A renewal is late. The lock is still held, until safe-until at most.
    Uncertain,
    /// The lock is no longer held. Final.
    Lost(LossReason),
}

/// A lock that was granted.
#[derive(Debug)]
pub(crate) struct Held {
    seen: Mutex<Seen>,
    safe_until: watch::Receiver<Instant>,
    /// The token of the guard's context.
    cancel: CancellationToken,
    clock: Clock,
}

/// What has become of it. The channels are made when they are first watched, since most guards
/// never are, and a channel costs more than the rest of an acquire.
#[derive(Debug)]
struct Seen {
    state: LockState,
    states: Option<watch::Sender<LockState>>,
    /// Why it was asked to yield, once it was.
    wanted: Option<watch::Sender<Option<String>>>,
}

impl Seen {
    fn wanted(&mut self) -> &watch::Sender<Option<String>> {
        self.wanted.get_or_insert_with(|| watch::Sender::new(None))
    }
}

impl Held {
    pub(crate) fn new(
        clock: Clock,
        safe_until: watch::Receiver<Instant>,
        cancel: CancellationToken,
    ) -> Self {
        let seen = Mutex::new(Seen { state: LockState::Held, states: None, wanted: None });
        Self { seen, safe_until, cancel, clock }
    }

    pub(crate) fn watch(&self) -> watch::Receiver<LockState> {
        let seen = &mut *self.seen();
        let states = &mut seen.states;
        states.get_or_insert_with(|| watch::Sender::new(seen.state.clone())).subscribe()
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        // Nothing panics while it is held.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn safe_until(&self) -> Instant {
        *self.safe_until.borrow()
    }

    /// Why the lock is lost, if it is. Reads the clock, so it does not wait for the session's
    /// task to notice; what it finds is final for everybody, whatever renewal comes after.
    pub(crate) fn loss(&self) -> Option<LossReason> {
        if self.clock.now() >= self.safe_until() {
            self.lose(LossReason::Expired);
        }
        match &self.seen().state {
            LockState::Lost(reason) => Some(reason.clone()),
            LockState::Held | LockState::Uncertain => None,
        }
    }

    /// What is left until safe-until; nothing once lost.
    pub(crate) fn remaining(&self) -> Duration {
        if self.loss().is_some() {
            return Duration::ZERO;
        }
        self.safe_until().saturating_duration_since(self.clock.now())
    }

    /// Waits for the loss, by this process's own clock even if nothing else runs any more.
    pub(crate) async fn lost(&self) -> LossReason {
        let mut state = self.watch();
        loop {
            if let Some(reason) = self.loss() {
                return reason;
            }
            // The sender is our own, so a change is all that this can report.
            tokio::select! {
                _ = state.changed() => {}
                () = self.clock.sleep_until(self.safe_until()) => {}
            }
        }
    }

    /// Records a request to yield the lock.
    pub(crate) fn ask_to_yield(&self, reason: String) {
        self.seen().wanted().send_replace(Some(reason));
    }

    /// Waits for a request to yield the lock, and returns its reason.
    pub(crate) async fn wanted(&self) -> String {
        let mut wanted = self.seen().wanted().subscribe();
        // The sender is our own, so this can't fail.
        match wanted.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => std::future::pending().await,
        }
    }

    /// The lease stands differently now.
    pub(crate) fn follow(&self, standing: Standing) {
        match standing {
            Standing::Current => self.change(LockState::Held),
            Standing::Late => self.change(LockState::Uncertain),
            Standing::Expired => self.lose(LossReason::Expired),
        }
    }

    /// The lock is lost. Of several reasons the first one stays.
    pub(crate) fn lose(&self, reason: LossReason) {
        self.change(LockState::Lost(reason));
        self.cancel.cancel();
    }

    fn change(&self, next: LockState) {
        let mut seen = self.seen();
        if matches!(seen.state, LockState::Lost(_)) || seen.state == next {
            return;
        }
        if let Some(states) = &seen.states {
            states.send_replace(next.clone());
        }
        seen.state = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn lost_is_final() {
        let clock = Clock::tokio();
        let (lease, safe_until) = watch::channel(clock.now() + Duration::from_secs(10));
        let held = Held::new(clock.clone(), safe_until, CancellationToken::new());
        held.lose(LossReason::SessionClosed);
        held.follow(Standing::Current);
        held.lose(LossReason::Expired);
        lease.send_replace(clock.now() + Duration::from_secs(100));
        assert_eq!(held.loss(), Some(LossReason::SessionClosed));
        assert_eq!(*held.watch().borrow(), LockState::Lost(LossReason::SessionClosed));
        assert_eq!(held.remaining(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn the_clock_alone_ends_it() {
        let clock = Clock::tokio();
        let start = clock.now();
        let (lease, safe_until) = watch::channel(start + Duration::from_secs(10));
        let held = Held::new(clock.clone(), safe_until, CancellationToken::new());
        drop(lease);
        assert_eq!(held.lost().await, LossReason::Expired);
        let waited = clock.now().saturating_duration_since(start);
        assert!(waited < Duration::from_millis(10_010), "{waited:?}");
    }
}
