//! Streams break and daemons die; sessions, holders and waiters stay.

use std::time::Duration;

use integration_tests::{Mode, Proxy, eventually};
use lockd_client::{LockState, LossReason};
use lockd_proto::v1;

use crate::world::{
    Raw, SOON, World, acquire_later, acquire_of, both_stores, client_of, reason, soon, token,
    waiters,
};

both_stores!(
    a_broken_stream_loses_nothing,
    a_daemon_killed_and_restarted_loses_no_holder_and_no_waiter,
    a_retry_finds_its_own_entry,
    a_link_that_hangs_is_noticed_before_the_lock_is_granted_again,
);

async fn a_broken_stream_loses_nothing(world: World) {
    let url = world.daemons.first().unwrap().url();
    let proxy = Proxy::start(url.trim_start_matches("http://").to_owned()).await;
    let through = client_of(&proxy.url(), Duration::from_secs(10)).await;
    let direct = world.patient_client().await;
    let held = through.lock("held").acquire(&soon()).await.unwrap();
    let other = direct.lock("wanted").acquire(&soon()).await.unwrap();
    let waiting = acquire_later(&through, "wanted");
    waiters(&direct, "wanted", 1).await;
    for _ in 0..3 {
        proxy.reset_connections();
        // This takes a stream, so by its end the session has been resumed.
        through.lock("probe").acquire(&soon()).await.unwrap().release().await.unwrap();
        held.check().unwrap();
    }
    other.release().await.unwrap();
    let waiting = waiting.await.unwrap();
    assert!(waiting.check().is_ok() && held.check().is_ok());
    let holder = direct.get("held").await.unwrap().unwrap().holder().unwrap().clone();
    assert_eq!(holder.token, held.token());
}

async fn a_daemon_killed_and_restarted_loses_no_holder_and_no_waiter(mut world: World) {
    let (holder, waiter) = (world.patient_client().await, world.patient_client().await);
    let held = holder.lock("restart").acquire(&soon()).await.unwrap();
    let waiting = acquire_later(&waiter, "restart");
    waiters(&holder, "restart", 1).await;
    world.kill_and_restart_first().await;
    let found = waiters(&holder, "restart", 1).await;
    assert_eq!(found.holder().unwrap().token, held.token());
    assert!(held.check().is_ok());
    let before = held.token();
    held.release().await.unwrap();
    assert!(waiting.await.unwrap().token() > before, "tokens grow across restarts");
}

async fn a_retry_finds_its_own_entry(world: World) {
    let mut raw = world.raw().await;
    let mut other = Raw::connect(&world.daemons.last().unwrap().url()).await;
    let session = raw.open(Duration::from_secs(30)).await;
    let first = token(raw.acquire(&session, acquire_of("retry", 7)).await.unwrap());
    // The same request at another replica, as after an outcome that was never heard.
    let again = token(other.acquire(&session, acquire_of("retry", 7)).await.unwrap());
    assert_eq!(first, again);
    let tried =
        v1::Acquire { max_wait: Some(prost_types::Duration::default()), ..acquire_of("retry", 7) };
    assert_eq!(token(other.acquire(&session, tried).await.unwrap()), first);
    let metadata = [("k".to_owned(), "v".to_owned())].into();
    let changed = v1::Acquire { metadata, ..acquire_of("retry", 7) };
    let refused = raw.acquire(&session, changed).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::AlreadyExists);
    assert_eq!(reason(&refused), "REQUEST_ID_REUSED");
    let client = world.client().await;
    assert!(waiters(&client, "retry", 0).await.holder().is_some());
}

async fn a_link_that_hangs_is_noticed_before_the_lock_is_granted_again(world: World) {
    let url = world.daemons.first().unwrap().url();
    let proxy = Proxy::start(url.trim_start_matches("http://").to_owned()).await;
    let cut_off = client_of(&proxy.url(), Duration::from_secs(3)).await;
    let held = cut_off.lock("hang").acquire(&soon()).await.unwrap();
    let next = acquire_later(&world.client().await, "hang");
    proxy.set(Mode::Blackhole).await;
    let lost = tokio::time::timeout(SOON, held.lost()).await.unwrap();
    assert_eq!(lost, LossReason::Expired);
    assert!(!next.is_finished(), "the holder knows first");
    assert!(matches!(*held.state().borrow(), LockState::Lost(_)));
    let next = next.await.unwrap();
    assert!(next.token() > held.token());
    eventually("the next holder is shown", SOON, async || {
        let found = world.client().await.get("hang").await.ok()??;
        (found.holder()?.token == next.token()).then_some(())
    })
    .await;
}
