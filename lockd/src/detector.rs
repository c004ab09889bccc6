//! Ends deadlocks: finds them in the view, makes sure of them, and ends the youngest wait.
//!
//! Every replica looks at the same graph; the one that follows the youngest wait ends it, and
//! leaves a note of it for all to see. A
//! cycle must stand for a while, as in Postgres's `deadlock_timeout`, so that what is being
//! cancelled or released is gone by then, and the store must confirm every entry and every
//! lease of it: where a holder may be about to expire, waiting is not hopeless.

use std::{sync::Arc, time::Duration};

use lockd_proto::v1;

use crate::{
    deadlock,
    engine::Engine,
    keys::{self, LockId},
    store::{Revision, StoreError},
    view::{Blocked, Entry, Slot, View},
};

/// How long changes are collected before the graph is looked at.
const COLLECT: Duration = Duration::from_millis(100);

/// How long a cycle must stand before it is ended.
const SETTLE: Duration = Duration::from_millis(400);

/// How often a cycle is looked at again that stands and could not be ended, since a lease in
/// it was late or its waits are followed elsewhere.
const AGAIN: Duration = Duration::from_secs(2);

/// A cycle of waits.
#[derive(Debug, Clone, PartialEq)]
pub struct Cycle {
    /// The waits, each blocked by the owner of the next one.
    pub waits: Vec<CycleWait>,
    /// The entry of the youngest of them.
    pub victim: Arc<Entry>,
}

/// One wait of a cycle.
#[derive(Debug, Clone, PartialEq)]
pub struct CycleWait {
    /// The entry that waits.
    pub entry: Arc<Entry>,
    /// For which lock.
    pub lock: LockId,
    /// The entry in the way.
    pub by: Arc<Entry>,
}

impl Cycle {
    /// The cycle that stands in a view, if there is one.
    #[must_use]
    pub fn find(view: &View) -> Option<Self> {
        let blocked = view.waits();
        let waits: Vec<_> = blocked.iter().map(|blocked| blocked.wait.clone()).collect();
        let cycle = deadlock::cycle(&waits)?;
        let victim = blocked.get(deadlock::victim(&waits, &cycle)?)?.entry.clone();
        let next = cycle.iter().cycle().skip(1);
        let waits = cycle.iter().zip(next).map(|(at, next)| {
            let (blocked, next) = (blocked.get(*at)?, blocked.get(*next)?);
            wait(blocked, &next.entry)
        });
        Some(Self { waits: waits.collect::<Option<_>>()?, victim })
    }

    /// Whether a lock is part of it.
    #[must_use]
    pub fn involves(&self, lock: &LockId) -> bool {
        self.waits.iter().any(|wait| wait.lock == *lock)
    }

    fn tokens(&self) -> Vec<Revision> {
        self.waits.iter().flat_map(|wait| [wait.entry.created, wait.by.created]).collect()
    }

    /// The cycle as it is told.
    #[must_use]
    pub fn to_wire(&self) -> v1::Deadlock {
        let wait = |wait: &CycleWait| v1::BlockedWait {
            owner: wait.entry.record.owner.clone(),
            lock: Some(v1::LockRef {
                namespace: wait.lock.namespace().to_owned(),
                name: wait.lock.name().to_owned(),
            }),
            token: wait.entry.created.0,
            blocked_by: wait.by.record.owner.clone(),
        };
        let cycle = self.waits.iter().map(wait).collect();
        v1::Deadlock { cycle, victim: self.victim.created.0, ended: None }
    }
}

/// A deadlock for people.
#[must_use]
pub fn describe(deadlock: &v1::Deadlock) -> String {
    let wait = |wait: &v1::BlockedWait| {
        let v1::BlockedWait { owner, lock, token, blocked_by } = wait;
        let name = lock.as_ref().map_or("", |lock| lock.name.as_str());
        format!("{owner} waits for {name:?} (token {token}) behind {blocked_by}")
    };
    deadlock.cycle.iter().map(wait).collect::<Vec<_>>().join("; ")
}

/// A wait of a cycle: behind which entry of the next one's owner it waits, and for which lock.
fn wait(blocked: &Blocked, next: &Entry) -> Option<CycleWait> {
    let in_the_way = |(_, by): &&(LockId, Arc<Entry>)| by.record.owner == next.record.owner;
    let (lock, by) = blocked.by.iter().find(in_the_way)?;
    Some(CycleWait { entry: blocked.entry.clone(), lock: lock.clone(), by: by.clone() })
}

/// Follows the view until the replica ends.
pub async fn run(engine: Engine) {
    // Nothing is left behind wherever it is dropped: it only reads and tells.
    tokio::select! {
        () = engine.end.cancelled() => {}
        () = detect(&engine) => {}
    }
}

async fn detect(engine: &Engine) {
    loop {
        engine.view.waits_changed().await;
        tokio::time::sleep(COLLECT).await;
        while let Some(cycle) = Cycle::find(&engine.view) {
            tokio::time::sleep(SETTLE).await;
            let stands = Cycle::find(&engine.view).filter(|now| now.tokens() == cycle.tokens());
            let Some(cycle) = stands else { continue };
            match confirmed(engine, &cycle).await {
                Ok(true) => end(engine, cycle).await,
                Ok(false) => tokio::time::sleep(AGAIN).await,
                Err(error) => {
                    tracing::warn!(%error, "a deadlock can't be confirmed yet");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }
}

/// Whether the store says that every entry of a cycle is there, and that every session of it
/// is alive and renews its lease: half of it is left at least.
async fn confirmed(engine: &Engine, cycle: &Cycle) -> Result<bool, StoreError> {
    for wait in &cycle.waits {
        for entry in [&wait.entry, &wait.by] {
            let found = engine.store.get(keys::entry(&wait.lock, entry.id)).await;
            let there = found?.is_some_and(|record| record.created == entry.created);
            let Some(session) = engine.view.session(entry.id.session).filter(|_| there) else {
                return Ok(false);
            };
            let ttl = Duration::from_millis(session.record.ttl_ms);
            let left = engine.store.lease_remaining(session.lease).await?;
            if left.is_none_or(|left| left < ttl / 2) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

async fn end(engine: &Engine, cycle: Cycle) {
    let deadlock = Arc::new(cycle.to_wire());
    let text = describe(&deadlock);
    tracing::warn!(cycle = text, victim = deadlock.victim, "a deadlock: its youngest wait ends");
    engine.view.tell_deadlocked(&cycle.victim, deadlock);
    // Until the entry is gone the same cycle stands.
    let gone = async {
        let there = |(id, lock): Slot| engine.view.entry(id, &lock).is_some();
        while cycle.victim.slot().is_some_and(there) {
            engine.view.waits_changed().await;
        }
    };
    if tokio::time::timeout(AGAIN, gone).await.is_err() {
        tracing::warn!("a deadlock stands: the wait that is to end is followed elsewhere");
    }
}
