//! Losing a lock: on time, for good, and everyone is notified.

use std::time::Duration;

use lockd_proto::v1::{self, server_message::Message as Told};

use super::{
    TTL, background, client,
    fake::{Net, within_patience},
    hold,
};
use crate::{Cause, ErrorKind, LockState, LossReason};

#[tokio::test(start_paused = true)]
async fn a_hanging_keepalive_ends_in_lost_on_time() {
    let mut net = Net::of(&["a", "b"]);
    let client = client(&net);
    let start = client.clock().now();
    let (guard, stream) = hold(&mut net, &client, 7).await;
    // Neither this stream nor any that is opened from now on is answered.
    stream.mute();
    let mut state = guard.state();
    within_patience(state.changed()).await.unwrap();
    assert_eq!(*state.borrow_and_update(), LockState::Uncertain);
    assert!(guard.check().is_ok(), "uncertain is still held");
    within_patience(state.changed()).await.unwrap();
    assert_eq!(*state.borrow(), LockState::Lost(LossReason::Expired));
    let took = client.clock().now().saturating_duration_since(start);
    assert!(took >= Duration::from_millis(14_450), "{took:?}");
    assert!(took < Duration::from_millis(14_460), "{took:?}");
    assert_eq!(guard.context().cause(), Some(Cause::LockLost(LossReason::Expired)));
    assert!(guard.check().unwrap_err().is_lost());
}

#[tokio::test(start_paused = true)]
async fn a_loss_drops_what_runs_under_the_lock() {
    let mut net = Net::of(&["a"]);
    let client = client(&net);
    let (guard, stream) = hold(&mut net, &client, 7).await;
    stream.mute();
    let error = guard.run(std::future::pending::<()>()).await.unwrap_err();
    assert!(error.is_lost());
    assert_eq!(error.to_string(), "run \"orders/42\": lost (the lease was not renewed in time)");
}

#[tokio::test(start_paused = true)]
async fn a_forced_release_is_told_with_its_reason() {
    let mut net = Net::of(&["a"]);
    let client = client(&net);
    let ctx = background(&client);
    let granting = async {
        let mut stream = net.at("a").attach(TTL).await;
        let id = stream.grant_next(7).await;
        (stream, id)
    };
    let (guard, (stream, id)) = tokio::join!(client.lock("a").acquire(&ctx), granting);
    let guard = guard.unwrap();
    let lost = v1::Lost {
        request_id: id,
        token: 7,
        reason: v1::LossReason::Forced.into(),
        detail: "stuck".to_owned(),
    };
    stream.tell(Told::Lost(lost)).await;
    let reason = within_patience(guard.lost()).await;
    assert_eq!(reason, LossReason::Forced { detail: "stuck".to_owned() });
    assert_eq!(guard.context().cancelled().await, Cause::LockLost(reason));
}

#[tokio::test(start_paused = true)]
async fn a_grant_after_safe_until_does_not_count() {
    let mut net = Net::of(&["a"]);
    let second = Duration::from_secs(1);
    let client = net.client(second);
    let ctx = background(&client);
    let serving = async {
        let mut stream = net.at("a").accept().await;
        stream.mute();
        stream.next().await;
        // A lease of 1 s, counted from the first message, is safe for 730 ms.
        tokio::time::sleep(Duration::from_millis(900)).await;
        stream.attached(second, vec![]).await;
        let id = stream.grant_next(7).await;
        assert_eq!(stream.expect_release().await, id);
    };
    let (acquired, ()) = tokio::join!(client.lock("a").acquire(&ctx), serving);
    let error = acquired.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Lost);
    assert!(error.is_retryable());
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_session_loses_what_is_held_and_asks_again_for_what_waits() {
    let mut net = Net::of(&["a"]);
    let client = client(&net);
    let (guard, mut stream) = hold(&mut net, &client, 7).await;
    let ctx = background(&client);
    let serving = async {
        let first = stream.expect_acquire().await;
        let reason = v1::LossReason::Expired.into();
        stream.tell(Told::Ended(v1::Ended { reason })).await;
        let mut stream = net.at("a").attach(TTL).await;
        let second = stream.expect_acquire().await;
        assert_eq!(first.request_id, second.request_id);
        stream.granted(second.request_id, 8).await;
        stream
    };
    let (next, _stream) = tokio::join!(client.lock("b").acquire(&ctx), serving);
    let next = next.unwrap();
    assert_eq!(within_patience(guard.lost()).await, LossReason::Expired);
    assert_ne!(guard.session_id(), next.session_id());
    assert!(next.check().is_ok());
}
