//! Why fencing tokens: a paused holder wakes up after its lock has been granted to another
//! client, and writes. The resource rejects the write, since it has seen a later token.
//!
//! Start `lockd dev`, then: `cargo run -p lockd-client --example fencing`

use std::time::Duration;

use anyhow::ensure;
use lockd_client::{Client, Context, FencingToken};

/// A resource that remembers the greatest token it has seen.
#[derive(Default)]
struct Account {
    balance: i64,
    seen: Option<FencingToken>,
}

impl Account {
    /// One conditional write, such as `UPDATE … WHERE token <= $1`.
    fn set(&mut self, balance: i64, token: FencingToken) -> bool {
        if self.seen.is_some_and(|seen| seen > token) {
            return false;
        }
        self.seen = Some(token);
        self.balance = balance;
        true
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let client = Client::from_env().await?;
    let ctx = Context::background().with_timeout(Duration::from_secs(10));
    let mut account = Account::default();

    let first = client.lock("examples/account").acquire(&ctx).await?;
    let paused = first.token();
    // An operator takes the lock away; the first holder is asleep and does not hear of it.
    client.force_release("examples/account", paused, "the example wants it").await?;

    let second = client.lock("examples/account").acquire(&ctx).await?;
    ensure!(account.set(200, second.token()), "the holder's write was refused");
    ensure!(!account.set(100, paused), "a write with an old token was accepted");
    say(format_args!(
        "token {paused} was refused after {}: the balance is {}",
        second.token(),
        account.balance
    ));
    say(format_args!("the first holder has heard of it now: {}", first.lost().await));

    second.release().await?;
    client.shutdown().await;
    Ok(())
}

#[allow(clippy::print_stdout, reason = "an example talks to whoever runs it")]
fn say(line: impl std::fmt::Display) {
    println!("{line}");
}
