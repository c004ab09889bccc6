//! A double barrier: three parties begin together and end together.
//!
//! Start `lockd dev`, then: `cargo run -p lockd-client --example barrier`

use std::time::Duration;

use anyhow::Context as _;
use lockd_client::{Client, Context};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let client = Client::from_env().await.context("is a lockd running? try: lockd dev")?;
    let ctx = Context::background().with_timeout(Duration::from_secs(10));
    let mut parties = tokio::task::JoinSet::new();
    for n in 0..3 {
        let (barrier, ctx) = (client.barrier("examples/benchmark", 3), ctx.clone());
        parties.spawn(async move {
            let inside = barrier.enter(&ctx).await?;
            say(format_args!("party {n} begins"));
            tokio::time::sleep(Duration::from_millis(50 * n)).await;
            inside.leave(&ctx).await?;
            say(format_args!("party {n} knows that all are done"));
            anyhow::Ok(())
        });
    }
    while let Some(party) = parties.join_next().await {
        party??;
    }
    client.shutdown().await;
    Ok(())
}

#[allow(clippy::print_stdout, reason = "an example talks to whoever runs it")]
fn say(line: impl std::fmt::Display) {
    println!("{line}");
}
