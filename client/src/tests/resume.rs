//! Streams that break: the session goes on elsewhere, with all that it had.

use std::time::Duration;

use lockd_proto::v1::{self, Reason, server_message::Message as Told};

use super::{
    TTL, background, client,
    fake::{Net, entry, stranger, within_patience},
    hold,
};
use crate::{LockState, LossReason};

#[tokio::test(start_paused = true)]
async fn what_waits_is_asked_for_again_at_another_address() {
    let mut net = Net::of(&["a", "b"]);
    let client = client(&net);
    let ctx = background(&client).with_timeout(Duration::from_secs(10));
    let serving = async {
        let mut stream = net.at("a").attach(TTL).await;
        let first = stream.expect_acquire().await;
        stream.queued(first.request_id.clone(), "api-7", 1, 1).await;
        drop(stream);
        let mut stream = net.at("b").resume(vec![entry(&first.request_id, 3, false)]).await;
        let second = stream.expect_acquire().await;
        assert_eq!(first.request_id, second.request_id);
        stream.granted(second.request_id, 3).await;
        stream
    };
    let (guard, _stream) = tokio::join!(client.lock("a").acquire(&ctx), serving);
    assert_eq!(guard.unwrap().token().get(), 3);
}

#[tokio::test(start_paused = true)]
async fn what_is_held_stays_held_and_the_lease_is_renewed() {
    let mut net = Net::of(&["a", "b"]);
    let client = client(&net);
    let ctx = background(&client);
    let granting = async {
        let mut stream = net.at("a").attach(TTL).await;
        let id = stream.grant_next(7).await;
        (stream, id)
    };
    let (guard, (stream, id)) = tokio::join!(client.lock("a").acquire(&ctx), granting);
    let guard = guard.unwrap();
    let before = guard.safe_until();
    // A replica that drains says so; another one takes over.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let failure = v1::Failure { reason: Reason::Draining.into(), ..Default::default() };
    stream.tell(Told::GoAway(v1::GoAway { failure: Some(failure) })).await;
    let mut stream = net.at("b").resume(vec![entry(&id, 7, true)]).await;
    stream.stays_silent(10 * TTL).await;
    assert_eq!(*guard.state().borrow(), LockState::Held);
    assert!(guard.safe_until() > before);
}

#[tokio::test(start_paused = true)]
async fn a_silent_replica_is_left_for_another_within_the_lease() {
    let mut net = Net::of(&["a", "b"]);
    let client = client(&net);
    let ctx = background(&client);
    let granting = async {
        let mut stream = net.at("a").attach(TTL).await;
        let id = stream.grant_next(7).await;
        (stream, id)
    };
    let (guard, (stream, id)) = tokio::join!(client.lock("a").acquire(&ctx), granting);
    let guard = guard.unwrap();
    stream.mute();
    let _stream = net.at("b").resume(vec![entry(&id, 7, true)]).await;
    tokio::time::sleep(10 * TTL).await;
    assert!(guard.check().is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_the_server_does_not_have_is_lost_and_what_nobody_wants_given_back() {
    let mut net = Net::of(&["a", "b"]);
    let client = client(&net);
    let (guard, stream) = hold(&mut net, &client, 7).await;
    drop(stream);
    let (waiting, held) = (stranger(), stranger());
    let entries = vec![entry(&waiting, 8, false), entry(&held, 9, true)];
    let mut stream = net.at("b").resume(entries).await;
    assert_eq!(within_patience(guard.lost()).await, LossReason::Missing);
    let mut given_back = [stream.expect_cancel().await, stream.expect_cancel().await];
    let mut expected = [waiting, held];
    given_back.sort();
    expected.sort();
    assert_eq!(given_back, expected);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_gone_is_replaced() {
    let mut net = Net::of(&["a", "b"]);
    let client = client(&net);
    let (guard, stream) = hold(&mut net, &client, 7).await;
    drop(stream);
    let resumed = net.at("b").accept().await;
    resumed.fail(Reason::SessionNotFound, "no such session").await;
    assert_eq!(within_patience(guard.lost()).await, LossReason::Expired);
    let ctx = background(&client);
    let serving = async {
        let mut stream = net.at("b").attach(TTL).await;
        stream.grant_next(8).await;
        stream
    };
    let (next, _stream) = tokio::join!(client.lock("b").acquire(&ctx), serving);
    assert!(next.unwrap().check().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_expired_here_is_given_back_where_it_lives_on() {
    let mut net = Net::of(&["a", "b"]);
    let client = client(&net);
    let ctx = background(&client);
    let granting = async {
        let mut stream = net.at("a").attach(TTL).await;
        let id = stream.grant_next(7).await;
        (stream, id)
    };
    let (guard, (stream, id)) = tokio::join!(client.lock("a").acquire(&ctx), granting);
    let guard = guard.unwrap();
    net.refuse("a");
    net.refuse("b");
    drop(stream);
    assert_eq!(within_patience(guard.lost()).await, LossReason::Expired);
    // The server's clock started anew, so that the session is still there.
    net.listen("b");
    let mut stream = net.at("b").resume(vec![entry(&id, 7, true)]).await;
    assert_eq!(stream.expect_release().await, id);
    assert_eq!(*guard.state().borrow(), LockState::Lost(LossReason::Expired), "final");
}
