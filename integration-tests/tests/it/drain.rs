//! SIGTERM: streams are sent to other replicas, and sessions survive.

use integration_tests::eventually;

use crate::world::{SOON, World, both_stores, soon};

both_stores!(a_daemon_told_to_stop_exits_in_order_and_its_sessions_survive);

async fn a_daemon_told_to_stop_exits_in_order_and_its_sessions_survive(mut world: World) {
    let client = world.patient_client().await;
    let held = client.lock("drain").acquire(&soon()).await.unwrap();
    let status = tokio::time::timeout(SOON, world.first().sigterm()).await.unwrap();
    assert_eq!(status.code(), Some(0));
    held.check().unwrap();
    if world.daemons.len() == 1 {
        world.first().restart().await;
    }
    // The session goes on, at another replica or at this one once it is back.
    eventually("the session is attached again", SOON, async || {
        client.status().await.is_ok_and(|status| status.attached_sessions == 1)
    })
    .await;
    held.check().unwrap();
    held.release().await.unwrap();
}
