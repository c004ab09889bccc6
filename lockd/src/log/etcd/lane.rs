//! Appends the records of one lane, one at a time, each exactly once.
//!
//! A record is a transaction that compares the version of its lane's key and puts that key. While an
//! outcome is unknown the same transaction is sent again: a greater version says that it was applied,
//! version 0 that the replica's lease has ended and none of its records can land any more. No copy can
//! land twice, whatever has become of the record's key meanwhile.

use std::{sync::Arc, time::Duration};

use etcd_client::{
    Compare, CompareOp, GetOptions, KeyValue, PutOptions, Txn, TxnOp, TxnOpResponse, TxnResponse,
};
use futures::{StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep},
};

use super::{
    endpoints::Pauses,
    fault::{EtcdRefusal, Fault},
    feed::other_era,
    floor::StoredFloor,
    item::{Item, Life},
    replica::{Known, Replica},
};
use crate::log::{Draft, LogError, Room};

/// How long a record that reached no member is tried.
const DEADLINE: Duration = Duration::from_secs(5);

/// The pause after a refusal of what may have been applied.
const REFUSED: Duration = Duration::from_millis(200);

/// A record on its lane.
pub(super) struct LaneRecord {
    pub(super) life: Life,
    pub(super) lane: usize,
    /// Its number, and the version of the lane's key before it.
    pub(super) number: u64,
    pub(super) draft: Draft,
}

/// What became of an attempt.
enum Attempt {
    /// It landed, or its life has ended: the watch says which.
    Settled,
    /// It will never land.
    Refused(LogError),
    Again,
    Broken(LogError),
}

/// Calls of delivered records whose answers are still on their way. With more, the next record waits.
const TRAILING: usize = 4;

/// Appends the records of a lane. A new one says that the one before has been delivered: what the watch
/// brings comes before the answer. The call is not dropped then, since a connection on which many calls
/// are cancelled is closed (`too_many_internal_resets`), but it is not repeated either.
pub(super) async fn run(replica: Arc<Replica>, mut jobs: mpsc::Receiver<LaneRecord>) {
    let newest = watch::Sender::new(0_u64);
    let mut settling = FuturesUnordered::new();
    let mut begun = 0_u64;
    loop {
        tokio::select! {
            job = jobs.recv(), if settling.len() <= TRAILING => {
                let Some(job) = job else { return };
                begun = begun.wrapping_add(1);
                newest.send_replace(begun);
                let (replica, newest) = (&replica, newest.subscribe());
                settling.push(async move {
                    let is_newest = || *newest.borrow() == begun;
                    settle(replica, &job, is_newest).await
                });
            }
            Some(settled) = settling.next() => {
                if let Err(error) = settled {
                    return replica.fail(error).await;
                }
            }
        }
    }
}

/// Sends a record until its outcome is known, or it is not the newest one of its lane any more.
async fn settle(
    replica: &Replica,
    job: &LaneRecord,
    is_newest: impl Fn() -> bool,
) -> Result<(), LogError> {
    let Some(known) = replica.known() else { return Ok(()) };
    let txn = transaction(replica, job, known);
    let deadline = Instant::now() + DEADLINE;
    let mut pauses = Pauses::new(&replica.endpoints);
    let mut may_have_landed = false;
    while is_newest() {
        let before = replica.watermark.now();
        let attempt = replica.endpoints.attempt(|mut client| {
            let txn = txn.clone();
            async move { client.txn(txn).await }
        });
        let outcome = match attempt.await {
            Ok(response) => {
                replica.observe(before, response.header())?;
                read(replica, job, known, &response)
            }
            Err(Fault::Unknown(why)) => {
                tracing::debug!(why, lane = job.lane, "the outcome of a record is unknown");
                may_have_landed = true;
                pauses.after_failure(&why).await;
                Attempt::Again
            }
            Err(Fault::NotSent(why)) if !may_have_landed && Instant::now() >= deadline => {
                Attempt::Refused(LogError::Unavailable(why))
            }
            Err(Fault::NotSent(why)) => {
                pauses.after_failure(&why).await;
                Attempt::Again
            }
            Err(Fault::Refused(EtcdRefusal::LeaseNotFound)) => {
                replica.lose(job.life.id);
                Attempt::Settled
            }
            Err(Fault::Refused(refusal)) if !may_have_landed => Attempt::Refused(refusal.into()),
            Err(Fault::Refused(refusal)) => {
                tracing::warn!(?refusal, "a record that may have been applied is refused");
                sleep(REFUSED).await;
                Attempt::Again
            }
        };
        match outcome {
            Attempt::Settled => return Ok(()),
            Attempt::Refused(error) => {
                let (life, lane, number) = (job.life.id, job.lane, job.number);
                // Without an owner there is no one to say it to.
                drop(replica.emit(Item::Refused { life, lane, number, error }).await);
                return Ok(());
            }
            Attempt::Again => {}
            Attempt::Broken(error) => return Err(error),
        }
    }
    Ok(())
}

fn transaction(replica: &Replica, job: &LaneRecord, known: &Known) -> Txn {
    let (keys, id) = (&replica.keys, job.life.id);
    let lane = keys.lane(id, job.lane);
    let version = i64::try_from(job.number).unwrap_or(i64::MAX);
    let leased = PutOptions::new().with_lease(job.life.lease);
    let mut puts = vec![
        TxnOp::put(keys.record(id, job.lane, job.number), job.draft.bytes.to_vec(), None),
        TxnOp::put(lane.clone(), "", Some(leased)),
        TxnOp::put(keys.newest(), "", None),
    ];
    puts.extend(job.draft.floor.map(|floor| StoredFloor::new(floor, &known.history).raise(keys)));
    let puts = match job.draft.room {
        Room::Ordinary => puts,
        // etcd does not count nested puts against its quota: what frees room is written on a full
        // cluster too.
        Room::Reserve => vec![TxnOp::txn(Txn::new().and_then(puts))],
    };
    let look = || Some(GetOptions::new().with_keys_only());
    Txn::new()
        .when([
            Compare::version(lane.clone(), CompareOp::Equal, version),
            Compare::mod_revision(keys.history(), CompareOp::Equal, known.revision),
        ])
        .and_then(puts)
        .or_else([TxnOp::get(lane, look()), TxnOp::get(keys.history(), look())])
}

/// Reads the answer to an attempt.
fn read(replica: &Replica, job: &LaneRecord, known: &Known, response: &TxnResponse) -> Attempt {
    if response.succeeded() {
        return Attempt::Settled;
    }
    let found = response.op_responses();
    let get = |index: usize| match found.get(index) {
        Some(TxnOpResponse::Get(get)) => get.kvs().first(),
        _ => None,
    };
    let version = get(0).map_or(0, KeyValue::version);
    let version = u64::try_from(version).unwrap_or_default();
    if version > job.number {
        return Attempt::Settled;
    }
    if version == 0 {
        replica.lose(job.life.id);
        return Attempt::Settled;
    }
    if get(1).map_or(0, KeyValue::mod_revision) != known.revision {
        return Attempt::Broken(other_era());
    }
    Attempt::Broken(LogError::Broken(format!(
        "lane {} in etcd is at {version} where {} records were written: its history has gone back",
        job.lane, job.number
    )))
}
