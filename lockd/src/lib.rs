//! lockd, the lock and lease daemon. ARCHITECTURE.md has the map.
//!
//! Without its feature `cli` it is the daemon alone, which is quicker to build and count.

#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "cli")]
pub mod config;
pub mod core;
#[cfg(feature = "cli")]
mod duration;
pub mod log;
pub mod record;
pub mod serve;
pub mod server;
#[cfg(feature = "cli")]
mod sidecar;
pub mod state;
pub mod telemetry;
