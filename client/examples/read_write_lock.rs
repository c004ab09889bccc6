//! A read/write lock, as Go's `sync.RWMutex`, across processes.
//!
//! Start `lockd dev`, then: `cargo run -p lockd-client --example read_write_lock`

use std::time::Duration;

use anyhow::Context as _;
use lockd_client::{Client, Context};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let client = Client::from_env().await.context("is a lockd running? try: lockd dev")?;
    let ctx = Context::background().with_timeout(Duration::from_secs(10));
    let table = || client.lock("examples/table");

    // Readers hold it together.
    let (one, two) =
        tokio::try_join!(table().shared().acquire(&ctx), table().shared().acquire(&ctx))?;
    say(format_args!("two readers, with tokens {} and {}", one.token(), two.token()));
    one.release().await?;
    two.release().await?;

    // A writer holds it alone, and may go on as a reader without letting another writer in.
    let mut writer = table().acquire(&ctx).await?;
    say(format_args!("a writer, with token {}", writer.token()));
    writer.downgrade(&ctx).await?;
    let reader = table().shared().acquire(&ctx).await?;
    say(format_args!("a reader beside it, with token {}", reader.token()));

    writer.release().await?;
    reader.release().await?;
    client.shutdown().await;
    Ok(())
}

#[allow(clippy::print_stdout, reason = "an example talks to whoever runs it")]
fn say(line: impl std::fmt::Display) {
    println!("{line}");
}
