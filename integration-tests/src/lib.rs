//! The tests' harness: real etcd in containers, the real `lockd` binary as a child, and the faults
//! between them. It knows nothing of what lockd promises; the tests in `tests/` do.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "test harness: what cannot be set up ends the test, with the reason"
)]

pub mod chain;
pub mod cluster;
pub mod daemon;
pub mod database;
mod docker;
pub mod etcd;
pub mod eventually;
mod image;
pub mod memory;
pub mod peers;
pub mod pods;
pub mod proxy;
pub mod writer;

pub use cluster::EtcdCluster;
pub use daemon::{Daemon, StoreKind};
pub use database::{Postgres, Redis, unique_name};
pub use etcd::{Etcd, unique_prefix};
pub use eventually::eventually;
pub use memory::{cpu_time, resident};
pub use proxy::{Mode, Proxy};
