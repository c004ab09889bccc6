//! Every coordination primitive, on both stores, over streams and unary calls.

mod barrier;
mod deadlock;
mod delay;
mod election;
mod explain;
mod limits;
mod once;
mod sharing;
mod wait_group;

use lockd_client::{Client, Error, Guard, LockBuilder};
use lockd_proto::v1::{self, mode::Mode};
use tokio::task::JoinHandle;

use crate::world::{acquire_of, soon};

/// A unary acquire in this mode.
fn in_mode(mode: Mode, acquire: v1::Acquire) -> v1::Acquire {
    v1::Acquire { mode: Some(v1::Mode { mode: Some(mode) }), ..acquire }
}

fn shared(name: &str, request: u8) -> v1::Acquire {
    in_mode(Mode::Shared(v1::Shared {}), acquire_of(name, request))
}

fn permits(name: &str, request: u8, (count, capacity): (u32, u32)) -> v1::Acquire {
    in_mode(Mode::Permits(v1::Permits { count, capacity }), acquire_of(name, request))
}

fn party(name: &str, request: u8, parties: u32) -> v1::Acquire {
    in_mode(Mode::Party(v1::Party { parties }), acquire_of(name, request))
}

/// Acquires in a task of its own.
fn later(lock: LockBuilder) -> JoinHandle<Result<Guard, Error>> {
    tokio::spawn(async move { lock.acquire(&soon()).await })
}

/// How many hold a lock, and how many wait for it.
async fn queue(client: &Client, lock: &str) -> (usize, usize) {
    match client.get(lock).await {
        Ok(Some(found)) => (found.holders.len(), found.waiters.len()),
        _ => (0, 0),
    }
}

/// Waits until a lock has this many holders and waiters.
async fn queued(client: &Client, lock: &str, expected: (usize, usize)) {
    integration_tests::eventually(
        &format!("{lock} has {expected:?}"),
        crate::world::SOON,
        async || queue(client, lock).await == expected,
    )
    .await;
}
