//! A long job that gives up its lock on request.
//!
//! Start `lockd dev`, then: `cargo run -p lockd-client --example yielding`

use std::time::Duration;

use anyhow::Context as _;
use lockd_client::{Client, Context};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let client = Client::from_env().await.context("is a lockd running? try: lockd dev")?;
    let ctx = Context::background().with_timeout(Duration::from_secs(10));
    let job = client.lock("examples/warehouse").acquire(&ctx).await?;
    let long_job = async {
        let why = job.yield_requested().await;
        say(format_args!("the job saves its work and makes way: {why}"));
        job.release().await
    };
    let urgent = async {
        let waiting = client.lock("examples/warehouse").acquire(&ctx);
        let asking = client.request_yield("examples/warehouse", "a deploy is waiting");
        let (guard, asked) = tokio::try_join!(waiting, asking)?;
        say(format_args!("the deploy has it, with token {}; {} asked", guard.token(), asked.len()));
        guard.release().await
    };
    let (made_way, deployed) = tokio::join!(long_job, urgent);
    made_way?;
    deployed?;
    client.shutdown().await;
    Ok(())
}

#[allow(clippy::print_stdout, reason = "an example talks to whoever runs it")]
fn say(line: impl std::fmt::Display) {
    println!("{line}");
}
