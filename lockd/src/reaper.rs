//! Takes out what has outlived its session, when its time is over.
//!
//! An entry with a lock-delay, a party to a barrier and a share of a group that fails are
//! attached to no lease: they stay when their session dies. Every replica sees them and counts
//! on its own clock, so the death of the replica that saw the loss makes a delay longer, never
//! shorter. Of several deletes the first one is done and the others find nothing.

use std::{collections::HashSet, time::Duration};

use futures::StreamExt;
use tokio_util::time::DelayQueue;

use crate::{
    engine::Engine,
    keys,
    mode::{Mode, OnLoss},
    store::{Delete, Guard, Op},
    view::{Entry, Orphan, Place, Slot},
};

/// When to try again what the store did not take.
const AGAIN: Duration = Duration::from_secs(1);

/// When an orphan is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Now,
    After(Duration),
    /// Others have to see it.
    Stays,
}

pub(crate) fn fate(orphan: &Orphan) -> Fate {
    let delay = Duration::from_millis(orphan.entry.record.lock_delay_ms);
    match (orphan.entry.mode, &orphan.place) {
        (_, Place::Misplaced(_)) => Fate::Now,
        (Mode::Party { .. } | Mode::Share(OnLoss::Fail), _) => Fate::Stays,
        (_, Place::Held) => Fate::After(delay),
        _ => Fate::Now,
    }
}

/// Follows the view until the replica ends.
pub async fn run(engine: Engine) {
    let mut delays = DelayQueue::new();
    let mut known = HashSet::new();
    loop {
        // Every arm is cancel safe.
        tokio::select! {
            () = engine.end.cancelled() => return,
            () = engine.view.litter() => sweep(&engine, &mut known, &mut delays).await,
            Some(due) = delays.next() => {
                let slot: Slot = due.into_inner();
                if let Some(entry) = engine.view.entry(slot.0, &slot.1)
                    && !remove(&engine, std::slice::from_ref(&entry)).await
                {
                    delays.insert(slot, AGAIN);
                }
            }
        }
    }
}

async fn sweep(engine: &Engine, known: &mut HashSet<Slot>, delays: &mut DelayQueue<Slot>) {
    let orphans = engine.view.orphans();
    let there: HashSet<_> = orphans.iter().filter_map(|orphan| orphan.entry.slot()).collect();
    known.retain(|slot| there.contains(slot));
    for orphan in orphans {
        let Some(slot) = orphan.entry.slot().filter(|slot| known.insert(slot.clone())) else {
            continue;
        };
        match fate(&orphan) {
            Fate::Now => drop(delays.insert(slot, Duration::ZERO)),
            Fate::After(delay) => {
                let session = orphan.entry.id.session;
                tracing::info!(lock = %slot.1, %session, ?delay, "stays taken after a loss");
                delays.insert(slot, delay);
            }
            Fate::Stays => {}
        }
    }
    for parties in engine.view.barriers_over() {
        // What fails is tried again with the next step of the barrier.
        remove(engine, &parties).await;
    }
}

/// Deletes entries in one step, and says whether the store has answered.
async fn remove(engine: &Engine, entries: &[std::sync::Arc<Entry>]) -> bool {
    let keys = entries.iter().flat_map(|entry| {
        let guard = Guard::Made(entry.created);
        keys::entries(&entry.locks, entry.id).map(move |key| (key, guard))
    });
    let delete = Delete::new(keys.collect());
    match engine.write(Op::Delete(delete)).await {
        Ok(_) => true,
        Err(error) => {
            tracing::warn!(%error, "entries that have outlived their session stay for now");
            false
        }
    }
}
