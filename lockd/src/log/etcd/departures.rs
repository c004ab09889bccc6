//! Writes down that a replica is gone, so that all replicas, and every reading of the log, see it at the
//! same place between the records.
//!
//! A replica's key goes with its lease, and nothing can be written in the same step. The first of the
//! replicas that live does it at once, the others later by their rank, if it is not done by then.

use std::{collections::HashMap, sync::Arc, time::Duration};

use etcd_client::{Compare, CompareOp, Txn, TxnOp};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::replica::Replica;
use crate::record::ReplicaId;

/// How much later each replica acts than the one before it.
const TURN: Duration = Duration::from_millis(500);

/// Marks replicas as gone until the log ends.
pub(super) async fn run(replica: Arc<Replica>) {
    let mut since: HashMap<ReplicaId, Instant> = HashMap::new();
    let mut turns = interval(TURN);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = turns.tick() => {}
            () = replica.departed.notified() => {}
        }
        // What is being read may be older than what is.
        let Some(id) = replica.id().filter(|_| replica.reading.borrow().is_some()) else {
            continue;
        };
        let (missing, rank) = {
            let view = replica.view();
            (view.missing(), view.rank(id))
        };
        since.retain(|id, _| missing.contains(id));
        let wait = TURN.saturating_mul(u32::try_from(rank).unwrap_or(u32::MAX));
        for missing in missing {
            if since.entry(missing).or_insert_with(Instant::now).elapsed() >= wait {
                mark_left(&replica, missing).await;
            }
        }
    }
}

/// Marks a replica as gone, if it is. Nested, since etcd does not count that against its quota: a full
/// cluster has to go on without its dead.
pub(super) async fn mark_left(replica: &Replica, id: ReplicaId) {
    let keys = &replica.keys;
    let puts = [TxnOp::put(keys.left(id), "", None), TxnOp::put(keys.newest(), "", None)];
    let txn = Txn::new()
        .when([
            Compare::version(keys.replica(id), CompareOp::Equal, 0),
            Compare::version(keys.join(id), CompareOp::Greater, 0),
            Compare::version(keys.left(id), CompareOp::Equal, 0),
        ])
        .and_then([TxnOp::txn(Txn::new().and_then(puts))]);
    match replica.endpoints.txn(txn).await {
        Ok(response) if response.succeeded() => tracing::info!(replica = %id, "a replica is gone"),
        Ok(_) => {}
        Err(refusal) => {
            tracing::warn!(?refusal, replica = %id, "a replica can't be marked as gone")
        }
    }
}
