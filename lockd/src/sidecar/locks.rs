//! The locks that the app holds by this sidecar.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use lockd_client::{Client, Context, Error, FencingToken, Guard, Released};

/// How many locks an app may hold at a time.
pub(super) const MAX_LOCKS: usize = 10_000;

/// What is held, by name and token.
#[derive(Debug, Clone, Default)]
pub(super) struct HeldLocks(Arc<Mutex<BTreeMap<(String, FencingToken), Guard>>>);

/// How an acquire is to be made.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct AcquireOptions {
    /// How long to wait; not at all when it is zero, and without an end when it is `None`.
    pub(super) wait: Option<Duration>,
    pub(super) ttl: Option<Duration>,
}

/// A lock that is held at this moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct HeldLock {
    pub(super) token: FencingToken,
    pub(super) valid_for: Duration,
}

/// What became of a grant that the app asks for.
#[derive(Debug)]
pub(super) enum GrantState {
    Held(HeldLock),
    Lost,
    /// No grant of this lock is known here, with this token where one was given.
    Unknown,
}

impl HeldLocks {
    /// Waits for a lock, and keeps it for the app. Dropping the future leaves the queue.
    pub(super) async fn acquire(
        &self,
        client: &Client,
        name: &str,
        options: AcquireOptions,
    ) -> Result<HeldLock, Error> {
        let mut lock = client.lock(name);
        if let Some(wait) = options.wait {
            lock = lock.wait(wait);
        }
        if let Some(ttl) = options.ttl {
            lock = lock.ttl(ttl);
        }
        // That of the app's request, with its trace and its deadline.
        let guard = lock.acquire(&Context::current()).await?;
        let held = HeldLock { token: guard.token(), valid_for: guard.remaining() };
        self.guards().insert((name.to_owned(), guard.token()), guard);
        Ok(held)
    }

    /// Whether there is room for one more; those that are lost make some.
    pub(super) fn has_room(&self) -> bool {
        let mut held = self.guards();
        if held.len() >= MAX_LOCKS {
            held.retain(|_, guard| guard.check().is_ok());
        }
        held.len() < MAX_LOCKS
    }

    /// What became of a grant; of the latest one where no token is given.
    pub(super) fn find(&self, name: &str, token: Option<FencingToken>) -> GrantState {
        let mut held = self.guards();
        let Some(key) = key(&held, name, token) else { return GrantState::Unknown };
        let Some(guard) = held.get(&key) else { return GrantState::Unknown };
        if guard.check().is_err() {
            held.remove(&key);
            return GrantState::Lost;
        }
        GrantState::Held(HeldLock { token: guard.token(), valid_for: guard.remaining() })
    }

    /// Gives a lock back; `None` where it is not known here.
    pub(super) async fn release(
        &self,
        name: &str,
        token: Option<FencingToken>,
    ) -> Option<Result<Released, Error>> {
        let guard = {
            let mut held = self.guards();
            let key = key(&held, name, token)?;
            held.remove(&key)?
        };
        Some(guard.release().await)
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.guards().len()
    }

    /// Gives everything back.
    pub(super) async fn release_all(&self) {
        let held = std::mem::take(&mut *self.guards());
        futures::future::join_all(held.into_values().map(Guard::release)).await;
    }

    fn guards(&self) -> MutexGuard<'_, BTreeMap<(String, FencingToken), Guard>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(
    held: &BTreeMap<(String, FencingToken), Guard>,
    name: &str,
    token: Option<FencingToken>,
) -> Option<(String, FencingToken)> {
    match token {
        Some(token) => Some((name.to_owned(), token)),
        None => held.keys().rev().find(|(held, _)| held == name).cloned(),
    }
}
