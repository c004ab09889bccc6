//! Waits until a deadline for a lock that another session holds, then reports the current holder.
//!
//! Start `lockd dev`, then: `cargo run -p lockd-client --example deadline`

use std::time::Duration;

use anyhow::bail;
use lockd_client::{Client, Context, ErrorKind};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // Two clients are two sessions, as if they were two processes.
    let api = Client::builder().addrs(address()).name("api-7").connect().await?;
    let worker = Client::builder().addrs(address()).name("worker-1").connect().await?;

    let held = api.lock("examples/deadline").acquire(&Context::background()).await?;
    let ctx = Context::background()
        .with_trace_id("4bf92f3577b34da6a3ce929d0e0e4736")
        .with_timeout(Duration::from_secs(2));
    match worker.lock("examples/deadline").acquire(&ctx).await {
        Ok(_) => bail!("two clients hold one lock"),
        Err(error) if error.kind() == ErrorKind::DeadlineExceeded => say(error),
        Err(error) => return Err(error.into()),
    }

    // The call left nothing in the queue, so the next one is first in line.
    let next = worker.lock("examples/deadline");
    let ctx = Context::background().with_timeout(Duration::from_secs(2));
    let (released, next) = tokio::join!(held.release(), next.acquire(&ctx));
    say(format_args!("{:?}; then worker-1 got token {}", released?, next?.token()));
    api.shutdown().await;
    worker.shutdown().await;
    Ok(())
}

fn address() -> String {
    std::env::var("LOCKD_ADDR").unwrap_or_else(|_| "http://127.0.0.1:7420".to_owned())
}

#[allow(clippy::print_stdout, reason = "an example talks to whoever runs it")]
fn say(line: impl std::fmt::Display) {
    println!("{line}");
}
