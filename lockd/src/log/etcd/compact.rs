//! Compacts etcd's history, which grows with every record and holds what was deleted until then.
//!
//! To the newest floor, and never to what a watch that was away for a moment may still need.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::replica::Replica;

/// How many times it is looked at while a revision grows old enough.
const STEPS: u32 = 6;

/// Compacts to what is older than `kept`, until the log ends. The first of the replicas that live does.
pub(super) async fn run(replica: Arc<Replica>, kept: Duration) {
    let mut ages: VecDeque<(Instant, i64)> = VecDeque::new();
    let mut done = 0;
    let mut steps = interval(kept / STEPS);
    steps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        steps.tick().await;
        ages.push_back((Instant::now(), replica.watermark.now().revision));
        let Some(old) = old(&mut ages, kept) else { continue };
        let target = old.min(floor(&replica));
        let first = replica.id().is_some_and(|id| replica.view().rank(id) == 0);
        if !first || target <= done {
            continue;
        }
        let compacted = replica
            .endpoints
            .attempt(|mut client| async move { client.compact(target, None).await });
        match compacted.await {
            Ok(_) => {
                tracing::debug!(target, "etcd's history is compacted");
                done = target;
            }
            // Another replica has, or the next step will.
            Err(fault) => tracing::debug!(?fault, target, "etcd's history is not compacted"),
        }
    }
}

/// The newest revision that is old enough. Those before it are needless.
fn old(ages: &mut VecDeque<(Instant, i64)>, kept: Duration) -> Option<i64> {
    let young = ages.partition_point(|(at, _)| at.elapsed() >= kept);
    ages.drain(..young.saturating_sub(1));
    ages.front().filter(|_| young > 0).map(|(_, revision)| *revision)
}

fn floor(replica: &Replica) -> i64 {
    let floor = *replica.floor.borrow();
    match (floor, replica.known()) {
        (Some(floor), Some(known)) => known.history.revision(floor.at),
        _ => 0,
    }
}
