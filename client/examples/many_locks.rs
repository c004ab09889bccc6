//! A thousand locks over one session, and a hundred tasks that take turns at one of them.
//!
//! Start `lockd dev`, then: `cargo run -p lockd-client --example many_locks`

use std::time::Duration;

use anyhow::ensure;
use futures::future::try_join_all;
use lockd_client::{Client, Context, Error};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let client = Client::from_env().await?;
    let ctx = Context::background().with_timeout(Duration::from_secs(60));
    let start = client.clock().now();
    let elapsed = || client.clock().now().saturating_duration_since(start);

    let names = (0..1000).map(|i| format!("examples/many/{i}"));
    let guards = try_join_all(names.map(|name| client.lock(name).acquire(&ctx))).await?;
    say(format_args!("{} locks held after {:.1?}", guards.len(), elapsed()));
    drop(guards);

    let turns = (0..100).map(|_| take_a_turn(&client, &ctx));
    let tokens = try_join_all(turns).await?;
    let mut in_order = tokens.clone();
    in_order.sort_unstable();
    in_order.dedup();
    ensure!(in_order.len() == tokens.len(), "a token was handed out twice");
    say(format_args!("{} turns, each with its own token, after {:.1?}", tokens.len(), elapsed()));
    client.shutdown().await;
    Ok(())
}

async fn take_a_turn(client: &Client, ctx: &Context) -> Result<u64, Error> {
    let guard = client.lock("examples/many/turns").acquire(ctx).await?;
    let token = guard.token().get();
    guard.release().await?;
    Ok(token)
}

#[allow(clippy::print_stdout, reason = "an example talks to whoever runs it")]
fn say(line: impl std::fmt::Display) {
    println!("{line}");
}
