//! The pairs of a renewal and a read barrier that prove a replica's promises.
//!
//! A pair proves that at its sending the lease lived, and that everything that was in the log by then has
//! been delivered once its read's revision is. It is sent each second, and again at another member while
//! there is no answer.

use std::time::Duration;

use futures::{StreamExt, future::join, stream::FuturesUnordered};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use super::{
    fault::{EtcdRefusal, Fault},
    item::{Item, Life},
    newest::{Unread, newest},
    replica::Replica,
    waits::DelayedItem,
};
use crate::log::LogError;

/// How often a pair is sent.
const BEAT: Duration = Duration::from_secs(1);

/// How long a pair may stay without an answer before another one is sent elsewhere.
const AGAIN: Duration = Duration::from_millis(300);

/// Pairs under way at once.
const AT_ONCE: usize = 8;

/// Why a pair proves nothing.
enum BeatFailure {
    /// No answer, or not both. Another pair follows.
    Unanswered(String),
    /// The lease is gone.
    Lost,
    Broken(LogError),
}

/// Renews a life until it is lost, or the log is read again, which begins another one.
pub(super) async fn beat(
    replica: &Replica,
    life: &Life,
    waits: &mpsc::Sender<DelayedItem>,
) -> Result<(), LogError> {
    let mut pairs = FuturesUnordered::new();
    let mut beats = interval(BEAT);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut again = None;
    let mut member = 0_usize;
    let over = over(replica, life);
    tokio::pin!(over);
    loop {
        // Each arm is cancel safe: timers, and streams of answers that stay where they are.
        tokio::select! {
            () = &mut over => return Ok(()),
            _ = beats.tick() => {
                member = 0;
                again = Some(Instant::now());
            }
            () = sleep_until(again.unwrap_or_else(Instant::now)), if again.is_some() => {
                if pairs.len() < AT_ONCE {
                    pairs.push(pair(replica, life, member));
                }
                member = member.wrapping_add(1);
                again = Some(Instant::now() + AGAIN);
            }
            Some(answer) = pairs.next() => match answer {
                Ok(wait) => {
                    again = None;
                    // One that finds no room is followed by others.
                    drop(waits.try_send(wait));
                }
                Err(BeatFailure::Unanswered(why)) => tracing::debug!(why, "a renewal has no answer"),
                Err(BeatFailure::Lost) => return Ok(()),
                Err(BeatFailure::Broken(error)) => return Err(error),
            }
        }
    }
}

/// Waits until a life is not this replica's any more.
async fn over(replica: &Replica, life: &Life) {
    let (mut lives, mut readings) = (replica.life.subscribe(), replica.reading.subscribe());
    let lost = async { drop(lives.wait_for(|now| now.as_ref() != Some(life)).await) };
    let anew = async { drop(readings.wait_for(|now| *now != Some(life.reading)).await) };
    tokio::select! {
        () = lost => {}
        () = anew => {}
    }
}

async fn pair(replica: &Replica, life: &Life, member: usize) -> Result<DelayedItem, BeatFailure> {
    let member = replica.endpoints.after(member);
    let sent = replica.clock.now();
    let lease = life.lease;
    let renewal = replica.endpoints.attempt_at(member, |mut client| async move {
        client.lease_keep_alive(lease).await.map(drop)
    });
    let (renewed, revision) = join(renewal, newest(replica, member)).await;
    match (renewed, revision) {
        (Err(Fault::Refused(EtcdRefusal::LeaseNotFound)), _) => Err(BeatFailure::Lost),
        (_, Err(Unread::Broken(error))) => Err(BeatFailure::Broken(error)),
        (Ok(()), Ok(revision)) => {
            Ok(DelayedItem { revision, item: Item::Proof { life: life.id, sent } })
        }
        (Err(fault), _) | (_, Err(Unread::Fault(fault))) => {
            Err(BeatFailure::Unanswered(format!("{fault:?}")))
        }
    }
}
