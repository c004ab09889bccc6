//! How soon a command that blocks is ended, and its connection usable again.

use std::time::Duration;

use integration_tests::{Redis as Server, unique_name};
use lockd_client::{Context, Propagation, redis::Redis};
use redis::cmd;
use tokio::time::{Instant, timeout};

use crate::table::{Row, Times};

const CANCELS: usize = 500;
/// How long is waited for a command that nothing ends, before it is said to go on.
const PATIENCE: Duration = Duration::from_millis(500);

pub(crate) async fn rows() -> Vec<Row> {
    let url = Server::shared().await.url();
    let open = || Redis::new(redis::Client::open(url.as_str()).unwrap()).unwrap().blocking(1);
    let (redis, watcher, key) = (open(), open(), unique_name("bench"));
    // Its elements are there at once: a timeout, however short, takes up to 100 ms of Redis's own.
    let ready = unique_name("ready");
    let mut fill = cmd("RPUSH");
    fill.arg(&ready).arg(vec![1; CANCELS]);
    let () = Context::background().redis(&redis).query(&fill).await.unwrap();
    let mut times = Vec::new();
    for _ in 0..CANCELS {
        let (ctx, cancel) = Context::background().with_cancel();
        let popping = pop(&ctx, &redis, &key);
        blocked(&watcher, 1).await;
        let start = Instant::now();
        cancel.cancel();
        popping.await.unwrap().unwrap_err();
        // Usable: the one connection that there may be answers the next command that blocks.
        let wait = Context::background();
        let _element: (String, u64) =
            wait.redis(&redis).query(cmd("BLPOP").arg(&ready).arg(0)).await.unwrap();
        times.push(start.elapsed());
    }
    let (ctx, cancel) = Context::background().with_propagation(Propagation::Off).with_cancel();
    let popping = pop(&ctx, &redis, &key);
    blocked(&watcher, 1).await;
    cancel.cancel();
    let without = match timeout(PATIENCE, blocked(&watcher, 0)).await {
        Ok(()) => "ended".to_owned(),
        Err(_) => format!("still blocks after {PATIENCE:?}"),
    };
    let () =
        Context::background().redis(&redis).query(cmd("RPUSH").arg(&key).arg(1)).await.unwrap();
    popping.await.unwrap().unwrap();
    let times = Times::of(times);
    vec![Row {
        what: "cancel of `BLPOP`, until its connection has served another".to_owned(),
        to_reach: "p99 ≤ 5 ms",
        with: times.line(),
        without,
        reached: times.permille(990) <= Duration::from_millis(5),
    }]
}

type Popped = Result<Option<(String, String)>, lockd_client::Error>;

fn pop(ctx: &Context, redis: &Redis, key: &str) -> tokio::task::JoinHandle<Popped> {
    let commands = ctx.redis(redis);
    let mut pop = cmd("BLPOP");
    pop.arg(key).arg(0);
    tokio::spawn(async move { commands.query(&pop).await })
}

/// Looks until so many clients are blocked.
async fn blocked(redis: &Redis, clients: usize) {
    loop {
        let ctx = Context::background();
        let list: String = ctx.redis(redis).query(cmd("CLIENT").arg("LIST")).await.unwrap();
        if list.lines().filter(|line| line.contains(" flags=b")).count() == clients {
            return;
        }
    }
}
