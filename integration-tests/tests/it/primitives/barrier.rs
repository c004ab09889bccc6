//! Double barriers.

use std::time::{Duration, Instant};

use lockd_client::{Client, Error, ErrorKind, Inside, LossReason};
use lockd_proto::v1;
use tokio::task::JoinHandle;

use super::{party, queued};
use crate::world::{Raw, SOON, TTL, World, both_stores, free, soon, token};

both_stores!(
    parties_go_in_together_and_come_out_together,
    a_party_that_dies_inside_breaks_it_for_all,
    a_party_that_dies_at_the_door_breaks_it_for_all,
    a_party_that_is_dropped_breaks_it_for_those_who_wait_to_leave,
    a_party_that_gives_up_breaks_it,
    a_broken_barrier_begins_anew,
    parties_meet_and_leave_by_unary_calls,
);

fn enter(client: &Client, name: &str, parties: u32) -> JoinHandle<Result<Inside, Error>> {
    let barrier = client.barrier(name, parties);
    tokio::spawn(async move { barrier.enter(&soon()).await })
}

async fn met(world: &World, name: &str, parties: u32) -> Vec<Inside> {
    let mut entering = Vec::new();
    for n in 0..parties {
        let client = if n % 2 == 0 { world.client().await } else { world.other_client().await };
        entering.push(enter(&client, name, parties));
    }
    let mut inside = Vec::new();
    for party in entering {
        inside.push(party.await.unwrap().unwrap());
    }
    inside
}

async fn parties_go_in_together_and_come_out_together(world: World) {
    let (here, there) = (world.client().await, world.other_client().await);
    // Twice: a barrier begins anew when all have left.
    for _ in 0..2 {
        let first = enter(&here, "b", 3);
        queued(&here, "b", (0, 1)).await;
        let second = enter(&there, "b", 3);
        queued(&here, "b", (0, 2)).await;
        assert!(!first.is_finished() && !second.is_finished());
        let third = enter(&here, "b", 3).await.unwrap().unwrap();
        let (first, second) = (first.await.unwrap().unwrap(), second.await.unwrap().unwrap());
        // A fourth waits for the next time.
        let mut leaving = Vec::new();
        for party in [first, second] {
            leaving.push(tokio::spawn(async move { party.leave(&soon()).await }));
        }
        integration_tests::eventually("two have left", SOON, async || {
            let found = here.get("b").await.ok()??;
            (found.holders.len() == 3).then_some(())
        })
        .await;
        assert!(leaving.iter().all(|leaving| !leaving.is_finished()), "all wait for the last");
        third.leave(&soon()).await.unwrap();
        for leaving in leaving {
            leaving.await.unwrap().unwrap();
        }
        free(&here, "b").await;
    }
    let mismatch = enter(&here, "b", 2);
    queued(&here, "b", (0, 1)).await;
    let refused = there.barrier("b", 3).enter(&soon()).await.unwrap_err();
    assert_eq!(refused.reason(), Some("KIND_MISMATCH"), "{refused}");
    mismatch.abort();
}

async fn a_party_that_dies_inside_breaks_it_for_all(world: World) {
    let mut raw = world.raw().await;
    let session = raw.open(TTL).await;
    let client = world.other_client().await;
    let other = enter(&client, "inside", 2);
    queued(&client, "inside", (0, 1)).await;
    token(raw.acquire(&session, party("inside", 1, 2)).await.unwrap());
    let since = Instant::now();
    let other = other.await.unwrap().unwrap();
    let why = tokio::time::timeout(SOON, other.broken()).await.unwrap();
    assert_eq!(why, LossReason::Broken);
    let waited = since.elapsed();
    assert!(waited <= TTL + Duration::from_secs(1), "{waited:?}");
    assert!(other.leave(&soon()).await.unwrap_err().is_lost());
    free(&client, "inside").await;
}

async fn a_party_that_dies_at_the_door_breaks_it_for_all(world: World) {
    let mut raw = world.raw().await;
    let session = raw.open(TTL).await;
    let client = world.other_client().await;
    let mut locks = raw.locks.clone();
    let dying = tokio::spawn(async move {
        let acquire = Some(party("door", 1, 3));
        let request = lockd_proto::v1::AcquireRequest { session: Some(session), acquire };
        locks.acquire(request).await
    });
    queued(&client, "door", (0, 1)).await;
    let broken = client.barrier("door", 3).enter(&soon()).await.unwrap_err();
    assert_eq!(broken.kind(), ErrorKind::Broken, "{broken}");
    dying.await.unwrap().unwrap_err();
    free(&client, "door").await;
}

async fn a_party_that_is_dropped_breaks_it_for_those_who_wait_to_leave(world: World) {
    let mut inside = met(&world, "drop", 2).await;
    let (first, second) = (inside.pop().unwrap(), inside.pop().unwrap());
    let leaving = tokio::spawn(async move { first.leave(&soon()).await });
    let client = world.client().await;
    queued(&client, "drop", (2, 0)).await;
    drop(second);
    let broken = leaving.await.unwrap().unwrap_err();
    assert_eq!(broken.kind(), ErrorKind::Broken, "{broken}");
    free(&client, "drop").await;
}

async fn a_party_that_gives_up_breaks_it(world: World) {
    let (here, there) = (world.client().await, world.other_client().await);
    let waiting = enter(&here, "gives-up", 3);
    queued(&here, "gives-up", (0, 1)).await;
    let short = soon().with_timeout(Duration::from_millis(300));
    let gave_up = there.barrier("gives-up", 3).enter(&short).await.unwrap_err();
    assert_eq!(gave_up.kind(), ErrorKind::DeadlineExceeded, "{gave_up}");
    let broken = waiting.await.unwrap().unwrap_err();
    assert_eq!(broken.kind(), ErrorKind::Broken, "{broken}");
    free(&here, "gives-up").await;
}

async fn a_broken_barrier_begins_anew(world: World) {
    let mut inside = met(&world, "anew", 2).await;
    let survivor = inside.pop().unwrap();
    drop(inside);
    tokio::time::timeout(SOON, survivor.broken()).await.unwrap();
    free(&world.client().await, "anew").await;
    let mut leaving = Vec::new();
    for party in met(&world, "anew", 2).await {
        leaving.push(tokio::spawn(async move { party.leave(&soon()).await }));
    }
    for left in leaving {
        left.await.unwrap().unwrap();
    }
}

/// Enters and leaves, as a client in any language does.
async fn unary_party(url: String, name: &'static str) -> v1::ReleaseOutcome {
    let mut raw = Raw::connect(&url).await;
    let session = raw.open(Duration::from_secs(30)).await;
    let token = token(raw.acquire(&session, party(name, 1, 2)).await.unwrap());
    let leave = v1::ReleaseRequest {
        session: Some(session),
        name: name.to_owned(),
        request_id: vec![1; 16],
        token,
        ..v1::ReleaseRequest::default()
    };
    raw.locks.release(leave).await.unwrap().into_inner().outcome()
}

async fn parties_meet_and_leave_by_unary_calls(world: World) {
    let url = |daemon: &integration_tests::Daemon| daemon.url();
    let (first, last) = (world.daemons.first().map(url), world.daemons.last().map(url));
    let first = tokio::spawn(unary_party(first.unwrap(), "unary"));
    let second = tokio::spawn(unary_party(last.unwrap(), "unary"));
    for left in [first, second] {
        let left = tokio::time::timeout(SOON, left).await.unwrap().unwrap();
        assert_eq!(left, v1::ReleaseOutcome::Released);
    }
    free(&world.client().await, "unary").await;
}
