//! Works for as long as it holds a lock, and stops when it is lost. Take the lock away with
//! `lockd force-release examples/leader --token N --reason "try it"`, or stop the daemon.
//!
//! Start `lockd dev`, then: `cargo run -p lockd-client --example run_until_lost`

use std::time::Duration;

use lockd_client::{Client, Context, Guard, LockState};

/// How long the job runs unless the lock is lost.
const SHIFT: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let client = Client::from_env().await?;
    let guard = client
        .lock("examples/leader")
        .ttl(Duration::from_secs(5))
        .acquire(&Context::background())
        .await?;
    say(format_args!("leading with token {} for {SHIFT:?}", guard.token()));

    let work = async {
        tokio::select! {
            () = report(&guard) => {}
            () = tokio::time::sleep(SHIFT) => {}
        }
    };
    match guard.run(work).await {
        Ok(()) => say(format_args!("the shift is over: {:?}", guard.release().await?)),
        Err(lost) => say(lost),
    }
    client.shutdown().await;
    Ok(())
}

/// Says how the lock stands, whenever that changes.
async fn report(guard: &Guard) {
    let mut state = guard.state();
    loop {
        let now = state.borrow_and_update().clone();
        match now {
            LockState::Held => say(format_args!("held for {:.1?} more", guard.remaining())),
            LockState::Uncertain => {
                say(format_args!("a renewal is late, {:.1?} are left", guard.remaining()));
            }
            LockState::Lost(reason) => return say(format_args!("lost: {reason}")),
        }
        if state.changed().await.is_err() {
            return;
        }
    }
}

#[allow(clippy::print_stdout, reason = "an example talks to whoever runs it")]
fn say(line: impl std::fmt::Display) {
    println!("{line}");
}
