//! Tokens only grow, and a session can't release another's lock.

use std::time::Duration;

use lockd_proto::v1;

use crate::world::{World, acquire_of, both_stores, reason, token};

both_stores!(
    nobody_releases_the_lock_of_another,
    a_release_names_its_token,
    tokens_grow_across_sessions_and_restarts,
);

fn release(
    session: &v1::SessionCredential,
    name: &str,
    request: u8,
    token: u64,
) -> v1::ReleaseRequest {
    v1::ReleaseRequest {
        session: Some(session.clone()),
        name: name.to_owned(),
        request_id: vec![request; 16],
        token,
        ..v1::ReleaseRequest::default()
    }
}

async fn nobody_releases_the_lock_of_another(world: World) {
    let mut raw = world.raw().await;
    let (owner, thief) =
        (raw.open(Duration::from_secs(30)).await, raw.open(Duration::from_secs(30)).await);
    let held = token(raw.acquire(&owner, acquire_of("mine", 1)).await.unwrap());
    let refused = raw.locks.release(release(&thief, "mine", 1, held)).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::PermissionDenied);
    assert_eq!(reason(&refused), "NOT_HOLDER");
    let client = world.client().await;
    let holder = client.get("mine").await.unwrap().unwrap().holder().unwrap().clone();
    assert_eq!(holder.token.get(), held);
}

async fn a_release_names_its_token(world: World) {
    let mut raw = world.raw().await;
    let session = raw.open(Duration::from_secs(30)).await;
    let held = token(raw.acquire(&session, acquire_of("token", 1)).await.unwrap());
    let refused = raw.locks.release(release(&session, "token", 1, held + 1)).await.unwrap_err();
    assert_eq!(reason(&refused), "TOKEN_MISMATCH");
    let outcomes = [v1::ReleaseOutcome::Released, v1::ReleaseOutcome::AlreadyLost];
    for expected in outcomes {
        let released = raw.locks.release(release(&session, "token", 1, held)).await.unwrap();
        assert_eq!(released.into_inner().outcome(), expected);
    }
}

async fn tokens_grow_across_sessions_and_restarts(mut world: World) {
    let mut last = 0;
    for round in 0..4 {
        let mut raw = world.raw().await;
        let session = raw.open(Duration::from_secs(30)).await;
        let held = token(raw.acquire(&session, acquire_of("grow", 1)).await.unwrap());
        assert!(held > last, "{held} after {last}");
        last = held;
        raw.locks.release(release(&session, "grow", 1, held)).await.unwrap();
        if round % 2 == 0 {
            world.kill_and_restart_first().await;
        }
    }
}
