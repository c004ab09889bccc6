//! What a replica says of itself: metrics, traces, logs, and which tasks there are. Leaves, which
//! take plain values: nothing is decided by any of it.

pub mod logs;
pub mod metrics;
#[cfg(feature = "cli")]
pub mod otlp;
pub mod tasks;
pub mod traces;
