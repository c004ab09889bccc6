//! lockd, the lock and lease daemon. ARCHITECTURE.md has the map.
//!
//! Without its feature `cli` it has only what the benches count, which is quicker to build.

#![cfg_attr(
    not(feature = "cli"),
    allow(dead_code, unused_imports, reason = "the benches count some parts, and use no others")
)]

#[cfg(feature = "cli")]
mod cli;
#[cfg(feature = "cli")]
mod config;
mod core;
#[cfg(feature = "cli")]
mod duration;
mod log;
mod record;
#[cfg(feature = "cli")]
mod serve;
#[cfg(feature = "cli")]
mod server;
#[cfg(feature = "cli")]
mod sidecar;
mod state;
mod telemetry;

#[cfg(feature = "cli")]
pub use cli::main;

/// Parts of the daemon for the benches and the integration tests of this repository, and for nothing
/// else: nothing here is stable.
pub mod testing {
    pub use crate::{
        core::{
            Answers, Core, Limits, Parts, StreamHandle,
            ask::{Acquire, Ask, Hello},
        },
        log::{
            Draft, Event, Log, LogError, MAX_OPERATIONS, MAX_RECORD_BYTES, Room,
            etcd::{EtcdConfig, EtcdLog},
            journal::{Journal, Options as JournalOptions},
        },
        record::{
            Client, Enqueue, Floor, Info, LockId, Mode, Open, Operation, Position, Record, Release,
            ReplicaId, Wait,
        },
        state::{
            Context, Effect, State,
            queue::{Queue, Seated},
        },
        telemetry::{tasks::Tasks, traces::Traces},
    };
}
