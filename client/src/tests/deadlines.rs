//! Deadlines and cancellation: on time, and nothing left behind.

use std::time::Duration;

use lockd_proto::v1::RefusalReason;

use super::{TTL, background, client, fake::Net};
use crate::ErrorKind;

const THREE: Duration = Duration::from_secs(3);

#[tokio::test(start_paused = true)]
async fn the_error_says_who_holds_the_lock_and_how_long_was_waited() {
    let mut net = Net::of(&["a"]);
    let client = client(&net);
    let ctx =
        background(&client).with_trace_id("4bf92f3577b34da6a3ce929d0e0e4736").with_timeout(THREE);
    let serving = async {
        let mut stream = net.at("a").attach(TTL).await;
        let acquire = stream.expect_acquire().await;
        assert_eq!(acquire.trace_id, "4bf92f3577b34da6a3ce929d0e0e4736");
        assert!(acquire.max_wait.is_some_and(|wait| wait.seconds <= 3));
        stream.queued(acquire.request_id.clone(), "api-7", 812, 2).await;
        assert_eq!(stream.expect_cancel().await, acquire.request_id);
    };
    let (acquired, ()) = tokio::join!(client.lock("orders/42").acquire(&ctx), serving);
    let error = acquired.unwrap_err();
    assert_eq!(
        error.to_string(),
        "acquire \"orders/42\": deadline exceeded after 3.0s of 3.0s \
         (held by api-7, token 812, 2 ahead) [trace 4bf92f35]"
    );
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
}

#[tokio::test(start_paused = true)]
async fn the_servers_word_that_the_wait_is_over_is_taken() {
    let mut net = Net::of(&["a"]);
    let client = client(&net);
    let ctx = background(&client);
    let serving = async {
        let mut stream = net.at("a").attach(TTL).await;
        let acquire = stream.expect_acquire().await;
        tokio::time::sleep(THREE).await;
        stream.refused(acquire.request_id, RefusalReason::WaitExpired).await;
        stream
    };
    let (acquired, _) = tokio::join!(client.lock("a").wait(THREE).acquire(&ctx), serving);
    let error = acquired.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WaitExpired);
    assert_eq!(error.to_string(), "acquire \"a\": wait expired after 3.0s of 3.0s");
}

#[tokio::test(start_paused = true)]
async fn a_dead_server_does_not_hold_up_a_deadline() {
    let net = Net::of(&["a", "b"]);
    net.refuse("a");
    net.refuse("b");
    let client = client(&net);
    let start = client.clock().now();
    let ctx = background(&client).with_timeout(THREE);
    let error = client.lock("a").acquire(&ctx).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
    assert!(error.to_string().contains("connection refused"), "{error}");
    let took = client.clock().now().saturating_duration_since(start);
    assert!(took < THREE + Duration::from_millis(10), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_does_not_hold_up_a_wait_or_a_try() {
    // Streams are accepted, and never answered.
    let net = Net::of(&["a"]);
    let client = client(&net);
    let ctx = background(&client);
    let waited = client.lock("a").wait(THREE).acquire(&ctx).await.unwrap_err();
    assert_eq!(waited.kind(), ErrorKind::Unavailable);
    let tried = client.lock("a").try_acquire(&ctx).await.unwrap_err();
    assert_eq!(tried.kind(), ErrorKind::Unavailable);
    assert!(tried.to_string().contains("no answer within"), "{tried}");
}

#[tokio::test(start_paused = true)]
async fn cancelling_the_context_leaves_the_queue() {
    let mut net = Net::of(&["a"]);
    let client = client(&net);
    let (ctx, cancel) = background(&client).with_cancel();
    let serving = async {
        let mut stream = net.at("a").attach(TTL).await;
        let id = stream.expect_acquire().await.request_id;
        cancel.cancel();
        assert_eq!(stream.expect_cancel().await, id);
    };
    let (acquired, ()) = tokio::join!(client.lock("a").acquire(&ctx), serving);
    assert_eq!(acquired.unwrap_err().kind(), ErrorKind::Cancelled);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_acquire_leaves_the_queue_and_gives_back_a_late_grant() {
    let mut net = Net::of(&["a"]);
    let client = client(&net);
    let ctx = background(&client);
    let mut stream = {
        let mut acquiring = Box::pin(client.lock("a").acquire(&ctx));
        let queued = async {
            let mut stream = net.at("a").attach(TTL).await;
            let id = stream.expect_acquire().await.request_id;
            (stream, id)
        };
        let (mut stream, id) = tokio::select! {
            _ = &mut acquiring => panic!("nobody granted it"),
            queued = queued => queued,
        };
        drop(acquiring);
        assert_eq!(stream.expect_cancel().await, id);
        stream.granted(id.clone(), 5).await;
        assert_eq!(stream.expect_release().await, id);
        stream.released(id.clone(), lockd_proto::v1::ReleaseOutcome::Released).await;
        // The cancel is answered, and then the grant that crossed it arrives once more.
        stream.refused(id.clone(), RefusalReason::Cancelled).await;
        stream.granted(id.clone(), 5).await;
        assert_eq!(stream.expect_release().await, id);
        stream.released(id, lockd_proto::v1::ReleaseOutcome::AlreadyLost).await;
        stream
    };
    stream.stays_silent(10 * TTL).await;
}

#[tokio::test(start_paused = true)]
async fn an_acquire_that_ends_while_its_session_is_opened_leaves_the_queue() {
    let mut net = Net::of(&["a"]);
    let client = client(&net);
    let ctx = background(&client).with_timeout(THREE);
    // The stream is opened, but the session not granted before the deadline.
    let error = client.lock("a").acquire(&ctx).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
    let mut stream = net.at("a").attach(TTL).await;
    let id = stream.expect_acquire().await.request_id;
    assert_eq!(stream.expect_cancel().await, id);
}
