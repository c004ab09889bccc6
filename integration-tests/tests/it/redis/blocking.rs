//! Commands that block are ended with their context, and their connections used again.

use std::collections::HashSet;

use integration_tests::{Mode, Proxy};
use lockd_client::{Context, ErrorKind, Propagation};
use tokio::time::{Instant, timeout};

use super::*;

/// A Redis of the test's own, so that who is blocked is its own as well.
async fn own() -> (integration_tests::Redis, Redis) {
    let server = integration_tests::Redis::start().await;
    let redis = open(&server.url()).blocking(1);
    (server, redis)
}

/// Waits for an element of the list, for as long as the context lasts.
async fn pop(
    ctx: &Context,
    redis: &Redis,
    key: &str,
) -> Result<Option<String>, lockd_client::Error> {
    let popped: Option<(String, String)> =
        ctx.redis(redis).query(cmd("BLPOP").arg(key).arg(0)).await?;
    Ok(popped.map(|(_, element)| element))
}

#[tokio::test]
async fn one_that_is_cancelled_leaves_its_connection_and_the_next_element() {
    let (_server, redis) = own().await;
    let mut connections = HashSet::new();
    for _ in 0..3 {
        let (ctx, cancel) = soon().with_cancel();
        let cancelling = async {
            let connection = blocks(&redis).await;
            cancel.cancel();
            connection
        };
        let (popped, connection) = tokio::join!(pop(&ctx, &redis, "key"), cancelling);
        assert_eq!(popped.unwrap_err().kind(), ErrorKind::Cancelled);
        assert!(blocked(&redis).await.is_empty());
        connections.insert(connection);
        push(&redis, "key", "element").await;
        assert_eq!(elements(&redis, "key").await, ["element"], "nobody has eaten it");
        // On the one connection that there may be.
        assert_eq!(pop(&soon(), &redis, "key").await.unwrap().as_deref(), Some("element"));
    }
    assert_eq!(connections.len(), 1, "the same one each time: {connections:?}");
}

#[tokio::test]
async fn one_that_is_dropped_does_so_too() {
    let (_server, redis) = own().await;
    let ctx = soon();
    let mut popping = Box::pin(pop(&ctx, &redis, "key"));
    let connection = tokio::select! {
        _ = &mut popping => panic!("there is nothing to pop"),
        connection = blocks(&redis) => connection,
    };
    drop(popping);
    eventually("it is unblocked", SOON, async || blocked(&redis).await.is_empty()).await;
    push(&redis, "key", "element").await;
    assert_eq!(pop(&soon(), &redis, "key").await.unwrap().as_deref(), Some("element"));
    let mut popping = Box::pin(pop(&ctx, &redis, "key"));
    tokio::select! {
        _ = &mut popping => panic!("there is nothing to pop"),
        again = blocks(&redis) => assert_eq!(again, connection, "it is used again"),
    }
}

#[tokio::test]
async fn a_deadline_is_told_to_the_server() {
    let (redis, key) = redis().await;
    let start = Instant::now();
    let ctx = Context::background().with_timeout(SHORT);
    let error = pop(&ctx, &redis, &key).await.unwrap_err();
    assert!(start.elapsed() < 2 * SHORT, "{:?}", start.elapsed());
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{error}");
    assert!(
        error.to_string().starts_with("redis command \"BLPOP\": deadline exceeded after 0."),
        "{error}"
    );
    assert!(!error.to_string().contains(&key), "no arguments: {error}");
    // What was to wait for less says so as Redis does.
    let ctx = Context::background().with_timeout(SOON);
    let none: Option<(String, String)> =
        ctx.redis(&redis).query(cmd("BLPOP").arg(&key).arg("0.1")).await.unwrap();
    assert_eq!(none, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_element_is_lost_however_pops_are_cancelled() {
    const ROUNDS: usize = 300;
    let (_server, redis) = own().await;
    let pushing = {
        let redis = redis.clone();
        async move {
            for n in 0..ROUNDS {
                push(&redis, "key", &n.to_string()).await;
            }
        }
    };
    let pushing = tokio::spawn(pushing);
    let mut popped = HashSet::new();
    for round in 0..ROUNDS as u64 {
        let (ctx, cancel) = soon().with_cancel();
        let moment = Duration::from_micros(round.wrapping_mul(7919) % 1500);
        let cancelling = async {
            tokio::time::sleep(moment).await;
            cancel.cancel();
        };
        let (element, ()) = tokio::join!(pop(&ctx, &redis, "key"), cancelling);
        if let Ok(Some(element)) = element {
            assert!(popped.insert(element.clone()), "{element} was popped twice");
        }
    }
    pushing.await.unwrap();
    let left = elements(&redis, "key").await;
    assert_eq!(popped.len() + left.len(), ROUNDS, "popped, or still there");
}

#[tokio::test]
async fn an_idle_connection_that_has_ended_is_replaced() {
    let server = integration_tests::Redis::shared().await;
    let proxy = Proxy::start(server.address()).await;
    let redis = open(&format!("redis://{}/", proxy.addr())).blocking(1);
    let (direct, key) = (open(&server.url()), unique_name("key"));
    for element in ["before", "after"] {
        push(&direct, &key, element).await;
        assert_eq!(pop(&soon(), &redis, &key).await.unwrap().as_deref(), Some(element));
        proxy.reset_connections();
    }
}

#[tokio::test]
async fn a_silent_server_keeps_neither_the_caller_nor_the_place() {
    let server = integration_tests::Redis::shared().await;
    let proxy = Proxy::start(server.address()).await;
    let redis = open(&format!("redis://{}/", proxy.addr())).blocking(1);
    let key = unique_name("key");
    push(&redis, &key, "first").await;
    pop(&soon(), &redis, &key).await.unwrap();
    proxy.set(Mode::Blackhole).await;
    for _ in 0..3 {
        let start = Instant::now();
        let ctx = Context::background().with_timeout(SHORT);
        let error = pop(&ctx, &redis, &key).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{error}");
        assert!(start.elapsed() < SHORT + Duration::from_secs(2), "{:?}", start.elapsed());
    }
    proxy.set(Mode::Pass).await;
    proxy.reset_connections();
    // The shared connection hears of the reset with its next command.
    eventually("it is back", SOON, async || {
        let again: Result<usize, _> =
            soon().redis(&redis).query(cmd("RPUSH").arg(&key).arg("second")).await;
        again
    })
    .await;
    assert_eq!(pop(&soon(), &redis, &key).await.unwrap().as_deref(), Some("second"));
}

#[tokio::test]
async fn without_propagation_it_blocks_on() {
    let (_server, redis) = own().await;
    let ctx = Context::background().with_propagation(Propagation::Off).with_timeout(SHORT / 10);
    let mut popping = Box::pin(pop(&ctx, &redis, "key"));
    assert!(timeout(SHORT, &mut popping).await.is_err(), "it has not heard of the deadline");
    assert_eq!(blocked(&redis).await.len(), 1);
    push(&redis, "key", "element").await;
    assert_eq!(popping.await.unwrap().as_deref(), Some("element"));
}
