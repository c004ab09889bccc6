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

/// The ids of the server's clients that are blocked.
async fn blocked(redis: &Redis) -> Vec<String> {
    let list: String = soon().redis(redis).query(cmd("CLIENT").arg("LIST")).await.unwrap();
    let blocked = list.lines().filter(|line| line.contains(" flags=b"));
    blocked.filter_map(|line| line.split(' ').next().map(str::to_owned)).collect()
}

/// Waits until a client is blocked, and gives back its id.
async fn blocks(redis: &Redis) -> String {
    eventually("a client is blocked", SOON, async || blocked(redis).await.pop()).await
}

async fn push(redis: &Redis, key: &str, value: &str) -> usize {
    soon().redis(redis).query(cmd("RPUSH").arg(key).arg(value)).await.unwrap()
}

async fn elements(redis: &Redis, key: &str) -> Vec<String> {
    soon().redis(redis).query(cmd("LRANGE").arg(key).arg(0).arg(-1)).await.unwrap()
}

const SHORT: Duration = Duration::from_millis(300);
