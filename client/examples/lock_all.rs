//! Several locks as one: transfers between accounts, in any order, without a deadlock.
//!
//! Start `lockd dev`, then: `cargo run -p lockd-client --example lock_all`

use std::time::Duration;

use anyhow::Context as _;
use lockd_client::{Client, Context};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let client = Client::from_env().await.context("is a lockd running? try: lockd dev")?;
    let ctx = Context::background().with_timeout(Duration::from_secs(10));
    let transfer = async |from: &str, to: &str| {
        let both = client.lock_all([from, to]).acquire(&ctx).await?;
        say(format_args!("from {from} to {to}, with token {}", both.token()));
        both.release().await
    };
    tokio::try_join!(
        transfer("examples/account/7", "examples/account/9"),
        transfer("examples/account/9", "examples/account/7"),
    )?;
    client.shutdown().await;
    Ok(())
}

#[allow(clippy::print_stdout, reason = "an example talks to whoever runs it")]
fn say(line: impl std::fmt::Display) {
    println!("{line}");
}
