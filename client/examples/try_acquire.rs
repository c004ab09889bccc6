//! Does a job only if no other copy is doing it: of several copies, one works and the
//! others exit at once. Run it in two shells.
//!
//! Start `lockd dev`, then: `cargo run -p lockd-client --example try_acquire`

use std::time::Duration;

use lockd_client::{Client, Context};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let client = Client::from_env().await?;
    let ctx = Context::background().with_timeout(Duration::from_secs(5));

    match client.lock("examples/nightly-job").try_acquire(&ctx).await? {
        Some(guard) => {
            say(format_args!("working with token {}", guard.token()));
            guard.run(tokio::time::sleep(Duration::from_secs(3))).await?;
            guard.release().await?;
            say("done");
        }
        None => {
            match client.get("examples/nightly-job").await?.and_then(|lock| lock.holder().cloned())
            {
                Some(holder) => say(format_args!(
                    "{} on {} (process {}) is at it already",
                    holder.client_name, holder.host, holder.pid
                )),
                None => say("somebody was at it, and has just finished"),
            }
        }
    }
    client.shutdown().await;
    Ok(())
}

#[allow(clippy::print_stdout, reason = "an example talks to whoever runs it")]
fn say(line: impl std::fmt::Display) {
    println!("{line}");
}
