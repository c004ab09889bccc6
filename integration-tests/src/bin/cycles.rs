//! Acquires and gives up, again and again, for a test that looks at what this leaves in its process.
//!
//! `cycles LOCKD COUNT`: makes so many cycles, waits until there are no more tasks than after the first
//! round, says how much memory is allocated, in KiB, and does so again for each line of its input.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "what cannot be set up ends the test"
)]

use std::time::Duration;

use integration_tests::eventually;
use lockd_client::{Client, Context};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    runtime::Handle,
    task::JoinSet,
};

/// What is resident moves with what the allocator keeps; what is allocated does not.
#[global_allocator]
static ALLOCATOR: &StatsAlloc<std::alloc::System> = &INSTRUMENTED_SYSTEM;

/// How many acquires there are at a time.
const AT_A_TIME: usize = 32;

/// How long clean-up may take.
const SOON: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [lockd, count] = &args[..] else { panic!("cycles LOCKD COUNT") };
    let client = Client::connect(lockd).await.unwrap();
    let mut input = BufReader::new(tokio::io::stdin()).lines();
    let mut before = None;
    loop {
        cycles(&client, count.parse().unwrap()).await;
        let tasks = || Handle::current().metrics().num_alive_tasks();
        let most = *before.get_or_insert_with(tasks);
        eventually("as many tasks as before", SOON, async || match tasks() {
            more if more > most => Err(format!("{more}, {most} before")),
            _ => Ok(()),
        })
        .await;
        println!("{}", allocated() / 1024);
        if input.next_line().await.unwrap().is_none() {
            return;
        }
    }
}

fn allocated() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated.saturating_sub(stats.bytes_deallocated)
}

/// Acquires a lock that is held, and gives up at once, soon, or when it waits.
async fn cycles(client: &Client, count: u32) {
    let ctx = Context::background();
    let held = client.lock("cycles").acquire(&ctx).await.unwrap();
    let mut running = JoinSet::new();
    for n in 0..count {
        let lock = client.lock("cycles");
        running.spawn(async move {
            let (ctx, cancel) = Context::background().with_cancel();
            let giving_up = async {
                for _ in 0..n % 40 {
                    tokio::task::yield_now().await;
                }
                cancel.cancel();
            };
            tokio::join!(lock.acquire(&ctx), giving_up).0.unwrap_err();
        });
        if running.len() >= AT_A_TIME {
            running.join_next().await.unwrap().unwrap();
        }
    }
    running.join_all().await;
    held.release().await.unwrap();
    eventually("nobody waits", SOON, async || match client.get("cycles").await {
        Ok(None) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}
