//! Leader election: one of two candidates leads, an observer watches, and the other one
//! takes over.
//!
//! Start `lockd dev`, then: `cargo run -p lockd-client --example election`

use std::time::Duration;

use anyhow::Context as _;
use lockd_client::{Client, Context, Observed};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let client = Client::from_env().await.context("is a lockd running? try: lockd dev")?;
    let ctx = Context::background().with_timeout(Duration::from_secs(10));
    let election = client.election("examples/scheduler");
    let mut observation = election.observe();

    let mut first = election.campaign(&ctx, "10.0.0.7:80").await?;
    first.proclaim(&ctx, "10.0.0.7:8080").await?;
    loop {
        if let Observed::Leader(leader) = observation.next().await? {
            let value = String::from_utf8_lossy(&leader.value).into_owned();
            say(format_args!("{value} leads with token {}", leader.token));
            if value.ends_with(":8080") {
                break;
            }
        }
    }

    // Campaigns, leads until the work is done, and campaigns again should it be deposed.
    let second = election.run(&ctx, "10.0.0.8:8080", |leading: Context| async move {
        say(format_args!("10.0.0.8:8080 leads for {:?} at least", leading.remaining()));
    });
    let (resigned, led) = tokio::join!(first.resign(), second);
    resigned?;
    led?;
    client.shutdown().await;
    Ok(())
}

#[allow(clippy::print_stdout, reason = "an example talks to whoever runs it")]
fn say(line: impl std::fmt::Display) {
    println!("{line}");
}
