//! Takes a lock, works under it, and releases it.
//!
//! Start `lockd dev`, then: `cargo run -p lockd-client --example basic`

use std::time::Duration;

use anyhow::Context as _;
use lockd_client::{Client, Context, Released};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let client = Client::from_env().await.context("is a lockd running? try: lockd dev")?;
    let ctx = Context::background().with_timeout(Duration::from_secs(10));

    let guard = client.lock("examples/basic").metadata("example", "basic").acquire(&ctx).await?;
    say(format_args!("holding {} with token {}", guard.name(), guard.token()));
    tokio::time::sleep(Duration::from_millis(200)).await;
    guard.check()?;

    match guard.release().await? {
        Released::Released => say("released"),
        Released::AlreadyLost => say("the lock was lost before the release"),
        Released::Unknown => say("nobody answered: the lock is free when its lease runs out"),
    }
    client.shutdown().await;
    Ok(())
}

#[allow(clippy::print_stdout, reason = "an example talks to whoever runs it")]
fn say(line: impl std::fmt::Display) {
    println!("{line}");
}
