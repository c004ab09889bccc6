//! Deletes what a floor has made needless: records, older checkpoints, marks of replicas that are gone.
//!
//! Each replica deletes its own records, the first of those that live all the rest. In bounded steps: one
//! deletion of very many keys holds up a member.

use std::sync::Arc;

use etcd_client::{GetOptions, Txn, TxnOp};

use super::{
    checkpoint::{AT_ONCE, delete_range},
    fault::Refusal,
    keys::Range,
    replica::Replica,
    view::Cut,
};
use crate::{log::Floor, record::ReplicaId};

/// Trims the log at each new floor, and, for what was left over, when this replica comes or another one
/// has gone.
pub(super) async fn run(replica: Arc<Replica>) {
    let mut floors = replica.floor.subscribe();
    loop {
        tokio::select! {
            changed = floors.changed() => if changed.is_err() { return },
            () = replica.untrimmed.notified() => {}
        }
        let (floor, id) = (*floors.borrow_and_update(), replica.id());
        if let (Some(floor), Some(id)) = (floor, id) {
            trim(&replica, id, &floor).await;
        }
    }
}

async fn trim(replica: &Replica, id: ReplicaId, floor: &Floor) {
    let Some(known) = replica.known() else { return };
    let revision = known.history.revision(floor.at);
    let (cuts, forgotten, first) = {
        let view = replica.view();
        (view.cuts(id, revision), view.forgotten(revision), view.rank(id) == 0)
    };
    for cut in cuts {
        records(replica, cut).await;
        replica.view().trimmed(cut);
    }
    if !first {
        return;
    }
    for gone in forgotten {
        marks(replica, gone).await;
    }
    for range in replica.keys.stale_chunks(floor.at, floor.which) {
        if let Err(refusal) = chunks(replica, range).await {
            tracing::warn!(?refusal, "old checkpoints can't be deleted");
        }
    }
}

async fn records(replica: &Replica, cut: Cut) {
    let key = |number| replica.keys.record(cut.author, cut.lane, number);
    let mut from = cut.from;
    while from <= cut.to {
        let to = from.saturating_add(AT_ONCE).min(cut.to.saturating_add(1));
        delete_range(replica, key(from), key(to)).await;
        from = to;
    }
}

/// Both marks of a replica go in one step: one without the other would say something else.
async fn marks(replica: &Replica, id: ReplicaId) {
    let keys = [replica.keys.join(id), replica.keys.left(id)];
    let txn = Txn::new().and_then(keys.map(|key| TxnOp::delete(key, None)));
    if let Err(refusal) = replica.endpoints.txn(txn).await {
        tracing::warn!(?refusal, "the marks of a replica that is gone can't be deleted");
    }
}

/// Deletes chunks of any checkpoints, from the first one that is there.
async fn chunks(replica: &Replica, (from, to): Range) -> Result<(), Refusal> {
    loop {
        let options = GetOptions::new().with_range(to.clone()).with_limit(1).with_keys_only();
        let first = replica.endpoints.get(from.clone(), Some(options)).await?;
        let Some(key) = first.kvs().first().map(|kv| kv.key().to_vec()) else { return Ok(()) };
        let end = match replica.keys.parse_chunk(&key) {
            Some((floor, which, number)) => {
                replica.keys.chunk(floor, which, number.saturating_add(AT_ONCE))
            }
            // A key of another kind goes alone.
            None => [&key[..], b"\0"].concat(),
        };
        delete_range(replica, key, end).await;
    }
}
