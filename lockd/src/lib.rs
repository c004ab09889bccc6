//! lockd, the lock and lease daemon. ARCHITECTURE.md has the map.
//!
//! Without its feature `cli` it is the daemon alone, which is quicker to build and count.

pub mod attachment;
pub mod barrier;
pub mod batcher;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "cli")]
pub mod config;
pub mod deadlock;
pub mod debug;
pub mod detector;
pub mod engine;
pub mod error;
pub mod grpc;
pub mod health;
pub mod keys;
pub mod locks;
pub mod logs;
pub mod metrics;
pub mod mode;
#[cfg(feature = "cli")]
pub mod otlp;
pub mod queue;
pub mod reaper;
pub mod record;
pub mod requests;
pub mod serve;
pub mod sessions;
pub mod store;
pub mod tasks;
pub mod traces;
pub mod view;
