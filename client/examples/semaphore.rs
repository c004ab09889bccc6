//! A semaphore: at most three encoders at a time, across processes.
//!
//! Start `lockd dev`, then: `cargo run -p lockd-client --example semaphore`

use std::time::Duration;

use anyhow::Context as _;
use lockd_client::{Client, Context};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let client = Client::from_env().await.context("is a lockd running? try: lockd dev")?;
    let ctx = Context::background().with_timeout(Duration::from_secs(10));
    let mut encoders = tokio::task::JoinSet::new();
    for n in 0..6 {
        let (slots, ctx) = (client.semaphore("examples/encoders", 3), ctx.clone());
        encoders.spawn(async move {
            let slot = slots.permits(1).acquire(&ctx).await?;
            say(format_args!("encoder {n} runs with token {}", slot.token()));
            tokio::time::sleep(Duration::from_millis(100)).await;
            slot.release().await
        });
    }
    while let Some(done) = encoders.join_next().await {
        done??;
    }
    client.shutdown().await;
    Ok(())
}

#[allow(clippy::print_stdout, reason = "an example talks to whoever runs it")]
fn say(line: impl std::fmt::Display) {
    println!("{line}");
}
