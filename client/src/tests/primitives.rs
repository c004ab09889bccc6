//! What the primitives ask of a session beside acquire and release.

use std::time::Duration;

use lockd_proto::v1::{self, client_message::Message as Ask, server_message::Message as Told};

use super::{
    TTL, assert_send, background, client,
    fake::{Net, Stream, entry, within_patience},
    hold,
};
use crate::{Cause, Context, ErrorKind, LossReason, Observed};

async fn expect_update(stream: &mut Stream) -> v1::Update {
    match stream.next().await {
        Ask::Update(update) => update,
        other => panic!("an update, not {other:?}"),
    }
}

async fn updated(stream: &Stream, update: &v1::Update) {
    let request_id = update.request_id.clone();
    stream.tell(Told::Updated(v1::Updated { request_id })).await;
}

#[tokio::test(start_paused = true)]
async fn a_change_is_asked_for_again_when_its_stream_breaks() {
    let mut net = Net::of(&["a", "b"]);
    let client = client(&net);
    let (mut guard, mut stream) = hold(&mut net, &client, 7).await;
    let ctx = background(&client);
    let serving = async {
        let first = expect_update(&mut stream).await;
        drop(stream);
        let mut stream = net.at("b").resume(vec![entry(&first.request_id, 7, true)]).await;
        let second = expect_update(&mut stream).await;
        assert_eq!(first, second);
        updated(&stream, &second).await;
        stream
    };
    let (changed, _stream) = tokio::join!(guard.set_value(&ctx, "v2"), serving);
    changed.unwrap();
    assert!(guard.check().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_change_that_is_refused_leaves_the_lock_held() {
    let mut net = Net::of(&["a"]);
    let client = client(&net);
    let (mut guard, mut stream) = hold(&mut net, &client, 7).await;
    let ctx = background(&client);
    let serving = async {
        let update = expect_update(&mut stream).await;
        stream.failed(&update.request_id, v1::Reason::ChangeRefused).await;
    };
    let (changed, ()) = tokio::join!(guard.downgrade(&ctx), serving);
    let error = changed.unwrap_err();
    assert_eq!((error.kind(), error.reason()), (ErrorKind::Conflict, Some("CHANGE_REFUSED")));
    assert!(guard.check().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_change_of_a_lock_that_is_lost_meanwhile_says_so() {
    let mut net = Net::of(&["a"]);
    let client = client(&net);
    let (mut guard, mut stream) = hold(&mut net, &client, 7).await;
    let ctx = background(&client);
    let serving = async {
        expect_update(&mut stream).await;
        let reason = v1::LossReason::Expired.into();
        stream.tell(Told::Ended(v1::Ended { reason })).await;
    };
    let (changed, ()) = tokio::join!(guard.set_value(&ctx, "v2"), serving);
    assert!(changed.unwrap_err().is_lost());
}

#[tokio::test(start_paused = true)]
async fn a_wish_to_have_the_lock_is_told_and_remembered() {
    let mut net = Net::of(&["a"]);
    let client = client(&net);
    let ctx = background(&client);
    let granting = async {
        let mut stream = net.at("a").attach(TTL).await;
        let request_id = stream.grant_next(7).await;
        let reason = "deploy".to_owned();
        stream.tell(Told::YieldRequested(v1::YieldRequested { request_id, reason })).await;
        stream
    };
    let (guard, _stream) = tokio::join!(client.lock("a").acquire(&ctx), granting);
    let guard = guard.unwrap();
    for _ in 0..2 {
        assert_eq!(within_patience(guard.yield_requested()).await, "deploy");
    }
}

#[tokio::test(start_paused = true)]
async fn a_party_that_is_dropped_deserts_and_one_that_leaves_waits_for_the_others() {
    let mut net = Net::of(&["a"]);
    let client = client(&net);
    let ctx = background(&client);
    let granting = async {
        let mut stream = net.at("a").attach(TTL).await;
        let first = stream.grant_next(7).await;
        let second = stream.grant_next(8).await;
        (stream, first, second)
    };
    let barrier = client.barrier("b", 2);
    let entering = async { (barrier.enter(&ctx).await, barrier.enter(&ctx).await) };
    let ((first, second), (mut stream, first_id, second_id)) = tokio::join!(entering, granting);
    drop(first.unwrap());
    assert_eq!(stream.expect_cancel().await, first_id);
    let leaving = async {
        assert_eq!(stream.expect_release().await, second_id);
        // Far longer than a release may take.
        stream.stays_silent(TTL).await;
        let lost = v1::Lost {
            request_id: second_id,
            token: 8,
            reason: v1::LossReason::Broken.into(),
            detail: String::new(),
        };
        stream.tell(Told::Lost(lost)).await;
    };
    let (left, ()) = tokio::join!(second.unwrap().leave(&ctx), leaving);
    assert_eq!(left.unwrap_err().kind(), ErrorKind::Broken);
}

#[tokio::test(start_paused = true)]
async fn a_campaign_fails_with_its_session_where_a_lock_queues_again() {
    let mut net = Net::of(&["a"]);
    let client = client(&net);
    let ctx = background(&client);
    let serving = async {
        let mut stream = net.at("a").attach(TTL).await;
        stream.expect_acquire().await;
        let reason = v1::LossReason::Expired.into();
        stream.tell(Told::Ended(v1::Ended { reason })).await;
    };
    let election = client.election("e");
    let (elected, ()) = tokio::join!(election.campaign(&ctx, "me"), serving);
    let error = elected.unwrap_err();
    assert!(error.is_lost() && error.loss() == Some(&LossReason::Expired), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_context_with_a_lock_ends_when_that_is_lost() {
    let mut net = Net::of(&["a"]);
    let client = client(&net);
    let (guard, stream) = hold(&mut net, &client, 7).await;
    let other = background(&client).with_lock(&guard);
    assert_eq!(other.remaining(), Some(guard.remaining()));
    stream.mute();
    let cause = within_patience(other.with_timeout(100 * TTL).cancelled()).await;
    assert_eq!(cause, Cause::LockLost(LossReason::Expired));
}

#[tokio::test(start_paused = true)]
async fn everything_can_be_run_in_a_task() {
    let net = Net::of(&["a"]);
    let client = client(&net);
    let ctx = background(&client);
    assert_send(&client.election("e").run(&ctx, "me", |_: Context| async {}));
    assert_send(&client.once("o").run(&ctx, |_| async { Ok::<_, ()>(vec![]) }));
    assert_send(&client.barrier("b", 2).enter(&ctx));
    assert_send(&client.wait_group("g").wait(&ctx));
    assert_send(&client.lock_all(["a", "b"]).acquire(&ctx));
    let mut observation = client.election("e").observe();
    assert_send(&observation.next());
    assert_ne!(Observed::Nobody, Observed::Unknown);
}

#[tokio::test(start_paused = true)]
async fn a_party_that_no_server_has_known_enters_in_the_next_session() {
    let mut net = Net::of(&["a"]);
    let client = client(&net);
    let (_guard, stream) = hold(&mut net, &client, 7).await;
    let ctx = background(&client);
    let barrier = client.barrier("b", 1);
    net.refuse("a");
    drop(stream);
    // Paused time moves when every task is idle: the session knows that its stream is down.
    tokio::time::sleep(Duration::from_millis(10)).await;
    let serving = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        net.listen("a");
        let mut resumed = net.at("a").accept().await;
        assert!(matches!(resumed.next().await, Ask::Resume(_)));
        let first = resumed.expect_acquire().await.request_id;
        resumed.fail(v1::Reason::SessionNotFound, "no such session").await;
        let mut stream = net.at("a").attach(TTL).await;
        assert_eq!(stream.grant_next(8).await, first);
        stream
    };
    let (entered, _stream) = tokio::join!(barrier.enter(&ctx), serving);
    assert!(entered.is_ok(), "{entered:?}");
}
