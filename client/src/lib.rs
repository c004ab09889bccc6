//! Distributed locks with deadlines, fencing tokens and guards that know when they are lost:
//! the client of lockd.
//!
//! ```no_run
//! use std::time::Duration;
//! use lockd_client::{Client, Context, Error};
//!
//! # async fn charge(order: u32, token: u64) {}
//! # #[tokio::main]
//! # async fn main() -> Result<(), Error> {
//! let client = Client::from_env().await?;
//! let ctx = Context::background().with_timeout(Duration::from_secs(3));
//! let guard = client.lock("orders/42").acquire(&ctx).await?;
//!
//! // Dropped if the lock is lost first. The token keeps a late writer out of the database.
//! guard.run(charge(42, guard.token().get())).await?;
//!
//! guard.release().await?;
//! client.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! A client has one session, opened when the first lock is acquired and kept alive in the
//! background. Its stream may break: it is resumed, at another address if need be, and what
//! it holds stays held for as long as the lease lasts. The lease counts from when a keepalive
//! was **sent**, less a margin of 2 % of the TTL and 250 ms (a quarter of a TTL below 1 s), so
//! a guard knows that it is lost before another session can be granted its lock.

#![deny(missing_docs)]

mod barrier;
mod client;
mod context;
mod detached;
mod election;
mod endpoints;
mod error;
mod explain;
#[cfg(any(feature = "postgres", feature = "sqlx", feature = "redis"))]
mod fencing;
mod group;
#[cfg(feature = "grpc")]
pub mod grpc;
#[cfg(not(feature = "grpc"))]
#[allow(unreachable_pub, reason = "it is public with the feature")]
mod grpc;
mod guard;
mod held;
#[cfg(feature = "http")]
pub mod http;
mod inspect;
#[cfg(any(feature = "grpc", feature = "http"))]
mod layer;
pub mod leak;
mod lease;
mod lock;
mod observe;
mod once;
mod place;
#[cfg(any(feature = "postgres", feature = "sqlx"))]
pub mod postgres;
pub mod propagation;
mod queue;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(feature = "reqwest")]
mod reqwest;
mod semaphore;
mod session;
mod tasks;
mod trace;
mod wait_group;

pub use barrier::{Barrier, Inside};
pub use client::{Client, ClientBuilder};
pub use context::{CancelHandle, Cause, Context};
pub use detached::DetachedLock;
pub use election::{Election, Leader, Leadership, Observation, Observed};
pub use error::{Error, ErrorKind, Fenced};
pub use explain::{BlockedWait, Deadlock, Explanation, Handoff, HandoffReason};
pub use group::{Group, GroupError, Pipeline, Sender, Worker};
pub use guard::Guard;
pub use held::{LockState, LossReason, Released};
pub use inspect::{LockEvent, LockWatch, Page, ServerStatus};
pub use lock::LockBuilder;
pub use lockd_proto::{
    FencingToken, LockName, SessionId, TraceParent, TraceParentError,
    clock::{Clock, Instant},
};
pub use once::{Once, OnceError, OnceRun, Turn};
pub use propagation::Propagation;
pub use queue::{EntryInfo, LockInfo, Mode};
#[cfg(feature = "reqwest")]
pub use reqwest::HttpCall;
pub use semaphore::Semaphore;
pub use wait_group::{Share, WaitGroup};

#[cfg(test)]
mod tests;
