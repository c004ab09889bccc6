//! The lives of a replica: a lease, a name that is never used again, and the keys that stand for it.

use std::{sync::Arc, time::Duration};

use etcd_client::{Compare, CompareOp, LeaseGrantOptions, PutOptions, Txn, TxnOp};
use tokio::{sync::mpsc, time::timeout};

use super::{
    LANES,
    beat::beat,
    departures::mark_left,
    endpoints::Pauses,
    fault::{Fault, Refusal},
    feed::other_era,
    item::Life,
    replica::{Known, Replica, random},
    waits::Wait,
};
use crate::{log::LogError, record::ReplicaId};

/// How long the end of the process waits until its lease is revoked.
const REVOKE: Duration = Duration::from_secs(1);

/// Lives until the log ends, one life after the other.
pub(super) async fn run(replica: Arc<Replica>, waits: mpsc::Sender<Wait>) {
    let end = replica.end.clone();
    let mut held = None;
    loop {
        match end.run_until_cancelled(live(&replica, &waits, &mut held)).await {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                replica.fail(error).await;
                break;
            }
            None => break,
        }
    }
    if let Some(life) = held {
        // The others need not wait for the lease to run out.
        if timeout(REVOKE, revoke(&replica, &life)).await.is_err() {
            tracing::warn!(replica = %life.id, "the lease could not be revoked: it runs out by itself");
        }
    }
}

/// One life, from its name to its end. `held` is the one whose lease is not known to have ended.
async fn live(
    replica: &Replica,
    waits: &mpsc::Sender<Wait>,
    held: &mut Option<Life>,
) -> Result<(), LogError> {
    let mut reading = replica.reading.subscribe();
    let reading = match reading.wait_for(Option::is_some).await {
        Ok(reading) => reading.unwrap_or_default(),
        Err(_) => return Ok(()),
    };
    let Some(known) = replica.known() else { return Ok(()) };
    let life = grant(replica, reading).await?;
    // Before the keys are there, so that the watch finds whose they are.
    replica.life.send_replace(Some(life));
    *held = Some(life);
    if join(replica, &life, known).await? {
        tracing::info!(replica = %life.id, "this replica has joined");
        replica.set_written();
        beat(replica, &life, waits).await?;
    }
    replica.lose(life.id);
    tracing::warn!(replica = %life.id, "this replica's lease has ended: it comes back under a new name");
    revoke(replica, &life).await;
    *held = None;
    mark_left(replica, life.id).await;
    Ok(())
}

/// How long an answer may promise a whole TTL after a proof was sent: what is granted, less what clocks
/// and margins may take (DESIGN, Leases; RULES L10).
fn keep(granted: Duration) -> Duration {
    granted.saturating_sub(granted / 50 + Duration::from_millis(250))
}

/// Asks for a lease. What an attempt of unknown outcome was granted runs out by itself.
async fn grant(replica: &Replica, reading: u64) -> Result<Life, LogError> {
    let asked = replica.config.lease;
    let seconds = asked.as_secs().saturating_add(u64::from(asked.subsec_nanos() > 0));
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    let mut pauses = Pauses::new(&replica.endpoints);
    loop {
        let lease = i64::try_from(random() >> 1).unwrap_or(i64::MAX).max(1);
        let sent = replica.clock.now();
        let granted = replica.endpoints.attempt(|mut client| async move {
            let options = LeaseGrantOptions::new().with_id(lease);
            client.lease_grant(seconds, Some(options)).await
        });
        let why = match granted.await {
            Ok(granted) => {
                let granted = u64::try_from(granted.ttl()).unwrap_or_default();
                let keep = keep(Duration::from_secs(granted));
                return Ok(Life { id: ReplicaId(random()), lease, keep, sent, reading });
            }
            Err(Fault::NotSent(why) | Fault::Unknown(why)) => why,
            // Room can be made, and permissions given, while lockd runs.
            Err(Fault::Refused(refusal)) => LogError::from(refusal).to_string(),
        };
        pauses.after_failure(&why).await;
    }
}

/// Puts the keys of a life. `false` where its lease has ended before that was done.
async fn join(replica: &Replica, life: &Life, known: &Known) -> Result<bool, LogError> {
    let (keys, id) = (&replica.keys, life.id);
    let leased = || Some(PutOptions::new().with_lease(life.lease));
    let level = replica.config.level.to_string();
    let mut puts = vec![
        TxnOp::put(keys.replica(id), level.clone(), leased()),
        TxnOp::put(keys.join(id), level, None),
        TxnOp::put(keys.newest(), "", None),
    ];
    puts.extend((0..LANES).map(|lane| TxnOp::put(keys.lane(id, lane), "", leased())));
    let txn = Txn::new()
        .when([
            Compare::version(keys.replica(id), CompareOp::Equal, 0),
            Compare::version(keys.join(id), CompareOp::Equal, 0),
            Compare::mod_revision(keys.history(), CompareOp::Equal, known.revision),
        ])
        .and_then(puts)
        .or_else([TxnOp::get(keys.replica(id), None), TxnOp::get(keys.history(), None)]);
    loop {
        let before = replica.watermark.now();
        let response = match replica.endpoints.txn(txn.clone()).await {
            Ok(response) => response,
            Err(Refusal::LeaseNotFound) => return Ok(false),
            Err(refusal) => {
                let why = LogError::from(refusal).to_string();
                tracing::warn!(why, "this replica can't join");
                tokio::time::sleep(REVOKE).await;
                continue;
            }
        };
        replica.observe(before, response.header())?;
        let responses = response.op_responses();
        let get = |index: usize| match responses.get(index) {
            Some(etcd_client::TxnOpResponse::Get(get)) => get.kvs().first(),
            _ => None,
        };
        return match (response.succeeded(), get(0), get(1)) {
            // An earlier attempt whose answer was lost.
            (true, ..) | (false, Some(_), _) => Ok(true),
            (false, None, history)
                if history.is_none_or(|kv| kv.mod_revision() != known.revision) =>
            {
                Err(other_era())
            }
            // It joined, and has been found gone.
            (false, None, _) => Ok(false),
        };
    }
}

async fn revoke(replica: &Replica, life: &Life) {
    let lease = life.lease;
    let revoked = replica
        .endpoints
        .call(|mut client| async move { client.lease_revoke(lease).await.map(drop) });
    match revoked.await {
        Ok(()) | Err(Refusal::LeaseNotFound) => {}
        Err(refusal) => tracing::warn!(?refusal, "a lease can't be revoked: it runs out by itself"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_ends_before_the_lease_can() {
        assert_eq!(keep(Duration::from_secs(5)), Duration::from_millis(4650));
        assert_eq!(keep(Duration::from_secs(8)), Duration::from_millis(7590));
        assert_eq!(keep(Duration::ZERO), Duration::ZERO);
    }
}
