//! The client against scripted servers, in memory and on paused time: nothing in here waits
//! for a real clock or a real network, unless it says so.

mod deadlines;
mod detached;
mod fake;
mod frames;
mod loss;
mod primitives;
mod release;
mod resume;

use std::time::Duration;

use lockd_proto::v1::client_message::Message as Ask;

use crate::{Client, Context, Guard};
use fake::{Net, Stream};

const TTL: Duration = Duration::from_secs(15);

/// A client on this network; nothing is connected yet.
fn client(net: &Net) -> Client {
    net.client(TTL)
}

fn background(client: &Client) -> Context {
    Context::background_on(client.clock().clone())
}

/// Acquires a lock while the server grants it on the stream that is opened for that.
async fn hold(net: &mut Net, client: &Client, token: u64) -> (Guard, Stream) {
    let ctx = background(client);
    let acquiring = client.lock("orders/42").acquire(&ctx);
    let granting = async {
        let mut stream = net.at("a").attach(TTL).await;
        stream.grant_next(token).await;
        stream
    };
    let (guard, stream) = tokio::join!(acquiring, granting);
    (guard.unwrap(), stream)
}

fn assert_send<T: Send>(_: &T) {}

#[tokio::test(start_paused = true)]
async fn a_lock_is_acquired_and_released() {
    let mut net = Net::of(&["a"]);
    let client = client(&net);
    let (guard, mut stream) = hold(&mut net, &client, 7).await;
    assert_eq!(guard.token().get(), 7);
    assert_eq!(guard.name().as_str(), "orders/42");
    assert!(guard.check().is_ok());
    assert_eq!(guard.context().remaining(), Some(Duration::from_millis(14_450)));
    let answering = async {
        let id = stream.expect_release().await;
        stream.released(id, lockd_proto::v1::ReleaseOutcome::Released).await;
    };
    let (released, ()) = tokio::join!(guard.release(), answering);
    assert_eq!(released.unwrap(), crate::Released::Released);
}

#[tokio::test(start_paused = true)]
async fn keepalives_hold_a_lock_for_as_long_as_they_are_answered() {
    let mut net = Net::of(&["a"]);
    let client = client(&net);
    let (guard, _stream) = hold(&mut net, &client, 7).await;
    tokio::time::sleep(100 * TTL).await;
    assert!(guard.check().is_ok());
    assert!(guard.remaining() > Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn a_busy_lock_is_not_an_error_for_a_try() {
    let mut net = Net::of(&["a"]);
    let client = client(&net);
    let ctx = background(&client);
    let refusing = async {
        let mut stream = net.at("a").attach(TTL).await;
        let acquire = stream.expect_acquire().await;
        assert_eq!(acquire.max_wait, Some(prost_types::Duration::default()), "a try");
        stream.refused(acquire.request_id, lockd_proto::v1::RefusalReason::Busy).await;
    };
    let (tried, ()) = tokio::join!(client.lock("a").try_acquire(&ctx), refusing);
    assert!(tried.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn locks_with_another_ttl_have_a_session_of_their_own() {
    let mut net = Net::of(&["a"]);
    let client = client(&net);
    let (first, _stream) = hold(&mut net, &client, 7).await;
    let minute = Duration::from_secs(60);
    let ctx = background(&client);
    let granting = async {
        let mut stream = net.at("a").accept().await;
        let Ask::Open(open) = stream.next().await else { panic!("a new session") };
        assert_eq!(open.ttl, minute.try_into().ok());
        stream.attached(minute, vec![]).await;
        stream.grant_next(8).await;
        stream
    };
    let (second, _stream) = tokio::join!(client.lock("b").ttl(minute).acquire(&ctx), granting);
    let second = second.unwrap();
    assert_ne!(first.session_id(), second.session_id());
    assert!(second.remaining() > Duration::from_secs(58));
}

#[tokio::test(start_paused = true)]
async fn what_the_server_refuses_for_good_fails_at_once() {
    let mut net = Net::of(&["a"]);
    let client = client(&net);
    let ctx = background(&client);
    let refusing = async {
        let stream = net.at("a").accept().await;
        let message = "ttl 15s is out of range: this store supports 2s to 3s";
        stream.fail(lockd_proto::v1::Reason::TtlOutOfRange, message).await;
    };
    let (acquired, ()) = tokio::join!(client.lock("a").acquire(&ctx), refusing);
    let error = acquired.unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::InvalidArgument);
    assert_eq!(error.reason(), Some("TTL_OUT_OF_RANGE"));
    assert!(error.to_string().contains("2s to 3s"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_bad_name_never_reaches_a_server() {
    let net = Net::of(&["a"]);
    let client = client(&net);
    let error = client.lock("a//b").acquire(&background(&client)).await.unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::InvalidArgument);
    assert!(error.to_string().starts_with("acquire \"a//b\": invalid argument ("), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_may_pass_is_asked_again_with_the_same_id() {
    let mut net = Net::of(&["a"]);
    let client = client(&net);
    let ctx = background(&client);
    let serving = async {
        let mut stream = net.at("a").attach(TTL).await;
        let first = stream.expect_acquire().await;
        stream.failed(&first.request_id, lockd_proto::v1::Reason::OutcomeUnknown).await;
        let second = stream.expect_acquire().await;
        assert_eq!(first.request_id, second.request_id);
        stream.granted(second.request_id, 9).await;
        stream
    };
    let (guard, _stream) = tokio::join!(client.lock("a").acquire(&ctx), serving);
    assert_eq!(guard.unwrap().token().get(), 9);
}

#[tokio::test]
async fn connecting_names_each_address_and_its_cause() {
    // Real sockets, closed at once: no process listens there.
    let closed = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (a, b) = (closed(), closed());
    let error = Client::connect(format!("{a},{b}")).await.unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::Unavailable);
    assert!(error.is_retryable());
    let text = error.to_string();
    assert!(text.starts_with("connect: unavailable after "), "{text}");
    assert!(text.contains(&format!("http://{a}: ")), "{text}");
    assert!(text.contains(&format!("http://{b}: ")), "{text}");
    assert!(text.contains("refused"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn connecting_is_content_with_the_second_address() {
    let net = Net::of(&["a", "b"]);
    net.refuse("a");
    let client = net.builder(TTL).connect().await.unwrap();
    assert_eq!(client.shared().endpoints.preferred(), 1);
}

#[tokio::test(start_paused = true)]
async fn futures_can_move_between_threads() {
    let net = Net::of(&["a"]);
    let client = client(&net);
    let ctx = background(&client);
    assert_send(&client.lock("a").acquire(&ctx));
    assert_send(&client.lock("a").try_acquire(&ctx));
    assert_send(&client.get("a"));
    assert_send(&client.list("a"));
    assert_send(&client.watch("a"));
    assert_send(&client.status());
    assert_send(&client.shutdown());
    assert_send(&ctx.cancelled());
}
