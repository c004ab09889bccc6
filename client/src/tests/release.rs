//! Releasing: the outcome is reported, and nothing is forgotten on the way.

use lockd_proto::v1::{
    self, ReleaseOutcome, client_message::Message as Ask, server_message::Message as Told,
};

use super::{
    TTL, background, client,
    fake::{Net, entry, within_patience},
    hold,
};
use crate::{Cause, LockState, LossReason, Released};

#[tokio::test(start_paused = true)]
async fn a_lock_that_the_server_no_longer_had_was_lost_already() {
    let mut net = Net::of(&["a"]);
    let client = client(&net);
    let (guard, mut stream) = hold(&mut net, &client, 7).await;
    let answering = async {
        let id = stream.expect_release().await;
        stream.released(id, ReleaseOutcome::AlreadyLost).await;
    };
    let (released, ()) = tokio::join!(guard.release(), answering);
    assert_eq!(released.unwrap(), Released::AlreadyLost);
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_is_known_to_be_lost_needs_no_answer() {
    let mut net = Net::of(&["a"]);
    let client = client(&net);
    let (guard, stream) = hold(&mut net, &client, 7).await;
    stream.mute();
    within_patience(guard.lost()).await;
    assert_eq!(guard.release().await.unwrap(), Released::AlreadyLost);
}

#[tokio::test(start_paused = true)]
async fn a_release_that_nobody_answers_ends_with_the_lease() {
    let mut net = Net::of(&["a"]);
    let client = client(&net);
    let start = client.clock().now();
    let (guard, stream) = hold(&mut net, &client, 7).await;
    stream.mute();
    assert_eq!(guard.release().await.unwrap(), Released::Unknown);
    assert!(client.clock().now().saturating_duration_since(start) < TTL);
}

#[tokio::test(start_paused = true)]
async fn a_release_that_was_cut_off_is_asked_again_and_never_reported_as_lost() {
    let mut net = Net::of(&["a", "b"]);
    let client = client(&net);
    let (guard, mut stream) = hold(&mut net, &client, 7).await;
    let serving = async {
        let id = stream.expect_release().await;
        drop(stream);
        let mut stream = net.at("b").resume(vec![]).await;
        assert_eq!(stream.expect_release().await, id);
        stream.released(id, ReleaseOutcome::AlreadyLost).await;
    };
    let (released, ()) = within_patience(async { tokio::join!(guard.release(), serving) }).await;
    assert_eq!(released.unwrap(), Released::Unknown);
}

#[tokio::test(start_paused = true)]
async fn a_cut_off_release_that_had_not_arrived_is_done_elsewhere() {
    let mut net = Net::of(&["a", "b"]);
    let client = client(&net);
    let (guard, mut stream) = hold(&mut net, &client, 7).await;
    let serving = async {
        let id = stream.expect_release().await;
        drop(stream);
        let mut stream = net.at("b").resume(vec![entry(&id, 7, true)]).await;
        assert_eq!(stream.expect_release().await, id);
        stream.released(id, ReleaseOutcome::Released).await;
    };
    let (released, ()) = within_patience(async { tokio::join!(guard.release(), serving) }).await;
    assert_eq!(released.unwrap(), Released::Released);
}

#[tokio::test(start_paused = true)]
async fn dropping_a_guard_releases_and_ends_its_context() {
    let mut net = Net::of(&["a"]);
    let client = client(&net);
    let (guard, mut stream) = hold(&mut net, &client, 7).await;
    let (context, state) = (guard.context(), guard.state());
    drop(guard);
    assert_eq!(context.cause(), Some(Cause::LockLost(LossReason::Released)));
    assert_eq!(*state.borrow(), LockState::Lost(LossReason::Released));
    stream.expect_release().await;
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_waits_for_releases_and_closes_the_session() {
    let mut net = Net::of(&["a"]);
    let client = client(&net);
    let (guard, mut stream) = hold(&mut net, &client, 7).await;
    drop(guard);
    let serving = async {
        let id = stream.expect_release().await;
        stream.released(id, ReleaseOutcome::Released).await;
        stream.expect_close().await;
        let reason = v1::LossReason::Closed.into();
        stream.tell(Told::Ended(v1::Ended { reason })).await;
    };
    within_patience(async { tokio::join!(client.shutdown(), serving) }).await;
    let error = client.lock("a").acquire(&background(&client)).await.unwrap_err();
    assert_eq!(error.to_string(), "acquire \"a\": cancelled (the client is shut down)");
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_the_locks_that_are_still_held() {
    let mut net = Net::of(&["a"]);
    let client = client(&net);
    let (guard, mut stream) = hold(&mut net, &client, 7).await;
    let serving = async {
        stream.expect_close().await;
        let reason = v1::LossReason::Closed.into();
        stream.tell(Told::Ended(v1::Ended { reason })).await;
    };
    within_patience(async { tokio::join!(client.shutdown(), serving) }).await;
    assert_eq!(within_patience(guard.lost()).await, LossReason::SessionClosed);
    assert_eq!(guard.release().await.unwrap(), Released::AlreadyLost);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_does_not_wait_for_ever_for_a_silent_server() {
    let mut net = Net::of(&["a"]);
    let client = client(&net);
    let (guard, stream) = hold(&mut net, &client, 7).await;
    stream.mute();
    let start = client.clock().now();
    client.shutdown().await;
    let took = client.clock().now().saturating_duration_since(start);
    assert!(took.as_secs() <= 5, "{took:?}");
    assert_eq!(within_patience(guard.lost()).await, LossReason::SessionClosed);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_dropped_closes_its_session() {
    let mut net = Net::of(&["a"]);
    let client = client(&net);
    let (guard, mut stream) = hold(&mut net, &client, 7).await;
    drop(client);
    drop(guard);
    let id = stream.expect_release().await;
    stream.released(id, ReleaseOutcome::Released).await;
    assert!(matches!(stream.next().await, Ask::Close(_)));
}
