//! A wait group, as Go's `sync.WaitGroup`: workers on any host, and a client that waits for all.
//!
//! Start `lockd dev`, then: `cargo run -p lockd-client --example wait_group`

use std::time::Duration;

use anyhow::Context as _;
use lockd_client::{Client, Context};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let client = Client::from_env().await.context("is a lockd running? try: lockd dev")?;
    let ctx = Context::background().with_timeout(Duration::from_secs(10));
    // A worker that dies fails the group instead of passing for done.
    let group = client.wait_group("examples/reindex").fail_on_loss();

    let mut workers = tokio::task::JoinSet::new();
    for n in 0..3 {
        let share = group.add(&ctx).await?;
        workers.spawn(async move {
            tokio::time::sleep(Duration::from_millis(100 * n)).await;
            say(format_args!("worker {n} is done"));
            share.done().await
        });
    }
    group.wait(&ctx).await?;
    say("all are done");
    while let Some(worker) = workers.join_next().await {
        worker??;
    }
    client.shutdown().await;
    Ok(())
}

#[allow(clippy::print_stdout, reason = "an example talks to whoever runs it")]
fn say(line: impl std::fmt::Display) {
    println!("{line}");
}
