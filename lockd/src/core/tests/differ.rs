//! RULES J29: of two replicas that differ, the one that is wrong ends, and the other one says which it was.

use super::{shared::SharedLog, *};
use crate::{
    core::tickets::Ticket,
    record::{Operation, ReplicaId},
};

const R1: ReplicaId = ReplicaId(1);
const R2: ReplicaId = ReplicaId(2);
const R3: ReplicaId = ReplicaId(3);

fn differs(replica: &Replica) -> Option<ReplicaId> {
    replica.core.status().snapshot().differs
}

async fn some_time_later() {
    tokio::time::sleep(2 * SECOND).await;
}

/// A replica that is right, and one that has missed what was item `lost` of the log.
async fn two_that_differ(log: &SharedLog) -> (Replica, Replica) {
    let one = Replica::sharing(log.join(R1)).await;
    let by = one.session(LONG).await;
    one.holds(by, &wanted("w", "")).await;
    let lost = log.len() + 1;
    let mut end = log.join(R2);
    end.loses = Some(lost);
    let other = Replica::sharing(end).await;
    for name in ["x", "y", "z"] {
        one.holds(by, &wanted(name, "")).await;
    }
    (one, other)
}

#[tokio::test(start_paused = true)]
async fn the_replica_that_is_wrong_ends_and_the_other_one_names_it() {
    for writes in [R1, R2] {
        let log = SharedLog::default();
        let (one, mut other) = two_that_differ(&log).await;
        assert!(other.get("x").await.is_none() && other.get("y").await.is_some());
        some_time_later().await;
        // The first record of either with a digest shows it.
        let replica = if writes == R1 { &one } else { &other };
        replica.session(LONG).await;
        let ended = (&mut other.run).await.unwrap().unwrap_err();
        assert!(ended.to_string().contains("is not what the log says"), "{ended}");
        one.session(LONG).await;
        assert_eq!(differs(&one), Some(R2));
        assert!(one.core.status().snapshot().not_ready.is_none(), "it serves");
        log.leave(R2);
        one.session(LONG).await;
        assert_eq!(differs(&one), None);
    }
}

/// One that reads the log when the records of the wrong one are in it has made its state of the log itself.
#[tokio::test(start_paused = true)]
async fn a_replica_that_starts_names_the_one_whose_records_say_other_digests() {
    let log = SharedLog::default();
    let (one, other) = two_that_differ(&log).await;
    one.end.cancel();
    some_time_later().await;
    other.session(LONG).await;
    some_time_later().await;
    other.session(LONG).await;
    let third = Replica::sharing(log.join(R3)).await;
    third.session(LONG).await;
    assert_eq!(differs(&third), Some(R2));
    assert!(third.get("x").await.is_some());
}

/// RULES J29: what the digest does not show is looked at again, a part a tick.
#[tokio::test(start_paused = true)]
async fn a_bit_that_flips_in_memory_ends_the_replica() {
    let (clock, end) = (Clock::tokio(), CancellationToken::new());
    for flips in [false, true] {
        let (mut core, _handle) =
            Core::new(MemoryLog::new(), parts(Limits::default(), &clock, &end));
        let session = SessionId::random();
        let client = crate::record::Client::default();
        let open = Open { session, stream: 0, secret_hash: [7; 32], ttl_ms: 9_000_000, client };
        core.propose(Operation::Open(Box::new(open)), Ticket::None);
        let mut inputs = vec![];
        let mut result = Ok(());
        for minute in 0..30 {
            core.now = core.now + Duration::from_mins(1);
            result = result.and_then(|()| core.turn(None, &mut inputs));
            if flips && minute == 15 {
                core.state.flip_a_bit();
            }
        }
        assert_eq!(result.is_err(), flips, "{result:?}");
        assert_eq!(core.state.counts().sessions, 1);
    }
}
