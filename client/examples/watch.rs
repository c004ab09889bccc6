//! Watches locks by prefix: the current state first, then each change, here made by itself.
//!
//! Start `lockd dev`, then: `cargo run -p lockd-client --example watch`

use std::time::Duration;

use anyhow::bail;
use lockd_client::{Client, Context, LockEvent};

const PREFIX: &str = "examples/watch/";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let client = Client::from_env().await?;
    let ctx = Context::background().with_timeout(Duration::from_secs(10));
    // Bounded by the context too, so that a quiet server can't keep it for ever.
    let mut watch = client.with_context(&ctx).watch(PREFIX).await?;

    let one = client.lock(format!("{PREFIX}one"));
    let changing = async {
        let guard = one.acquire(&ctx).await?;
        tokio::time::sleep(Duration::from_millis(300)).await;
        guard.release().await
    };
    let watching = async {
        while let Some(event) = watch.next().await {
            match event? {
                LockEvent::Changed(lock) => {
                    let holder =
                        lock.holder().map_or("nobody", |holder| holder.client_name.as_str());
                    say(format_args!(
                        "{} is held by {holder}, {} wait",
                        lock.name,
                        lock.waiters.len()
                    ));
                }
                LockEvent::SnapshotEnd => say("that is how it is; now the changes"),
                LockEvent::Freed { name, .. } => {
                    say(format_args!("{name} is free"));
                    return Ok(());
                }
                _ => {}
            }
        }
        bail!("the watch ended before the lock was free")
    };
    let (changed, watched) = tokio::join!(changing, watching);
    changed?;
    watched?;
    client.shutdown().await;
    Ok(())
}

#[allow(clippy::print_stdout, reason = "an example talks to whoever runs it")]
fn say(line: impl std::fmt::Display) {
    println!("{line}");
}
