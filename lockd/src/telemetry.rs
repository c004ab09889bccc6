//! What a replica says of itself: metrics, traces, logs, and which tasks there are. Leaves, which
//! take plain values: nothing is decided by any of it.

pub(crate) mod logs;
pub(crate) mod metrics;
#[cfg(feature = "cli")]
pub(crate) mod otlp;
pub(crate) mod tasks;
pub(crate) mod traces;
