//! What contexts and fencing tokens promise in Redis, on a real server.

mod blocking;
mod commands;
mod fencing;

use std::time::Duration;

use integration_tests::{eventually, unique_name};
use lockd_client::redis::Redis;
use redis::cmd;

use crate::world::{SOON, soon};

/// Connections to the shared server, and a key of the test's own.
async fn redis() -> (Redis, String) {
    let url = integration_tests::Redis::shared().await.url();
    (open(&url), unique_name("key"))
}

fn open(url: &str) -> Redis {
    Redis::new(redis::Client::open(url).unwrap()).unwrap()
}

/// How many clients of the server are blocked.
async fn blocked(redis: &Redis) -> usize {
    let list: String = soon().redis(redis).query(cmd("CLIENT").arg("LIST")).await.unwrap();
    list.lines().filter(|line| line.contains(" flags=b")).count()
}

/// Waits until a client is blocked.
async fn blocks(redis: &Redis) {
    eventually("a client is blocked", SOON, async || blocked(redis).await > 0).await;
}

async fn push(redis: &Redis, key: &str, value: &str) -> usize {
    soon().redis(redis).query(cmd("RPUSH").arg(key).arg(value)).await.unwrap()
}

async fn elements(redis: &Redis, key: &str) -> Vec<String> {
    soon().redis(redis).query(cmd("LRANGE").arg(key).arg(0).arg(-1)).await.unwrap()
}

const SHORT: Duration = Duration::from_millis(300);
