//! Once: a migration that three replicas want, and one of them runs.
//!
//! Start `lockd dev`, then: `cargo run -p lockd-client --example once`

use std::time::Duration;

use anyhow::Context as _;
use lockd_client::{Client, Context};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let client = Client::from_env().await.context("is a lockd running? try: lockd dev")?;
    let ctx = Context::background().with_timeout(Duration::from_secs(10));
    let mut replicas = tokio::task::JoinSet::new();
    for n in 0..3 {
        let (migration, ctx) = (client.once("examples/migrate-v7"), ctx.clone());
        replicas.spawn(async move {
            let migrate = |_| async move {
                say(format_args!("replica {n} migrates"));
                Ok::<_, std::io::Error>(format!("by replica {n}").into_bytes())
            };
            let result = migration.run(&ctx, migrate).await?;
            say(format_args!("replica {n}: done {}", String::from_utf8_lossy(&result)));
            anyhow::Ok(())
        });
    }
    while let Some(replica) = replicas.join_next().await {
        replica??;
    }
    // So that the example can be run again.
    client.once("examples/migrate-v7").forget().await?;
    client.shutdown().await;
    Ok(())
}

#[allow(clippy::print_stdout, reason = "an example talks to whoever runs it")]
fn say(line: impl std::fmt::Display) {
    println!("{line}");
}
