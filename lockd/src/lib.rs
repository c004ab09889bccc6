//! lockd, the lock and lease daemon. ARCHITECTURE.md has the map.
//!
//! Without its feature `cli` it is the daemon alone, which is quicker to build and count.

#[cfg(feature = "cli")]
mod cli;
#[cfg(feature = "cli")]
mod config;
mod core;
#[cfg(feature = "cli")]
mod duration;
mod log;
mod record;
mod serve;
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
