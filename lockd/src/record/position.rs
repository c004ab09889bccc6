//! Places in the log, and who writes there.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A place of an operation in the log. Places only grow, across restarts and replicas, and none is
/// used twice: an entry's place is its fencing token. Never zero for an operation.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
)]
pub struct Position(pub u64);

impl Position {
    /// The place `steps` operations later.
    #[must_use]
    pub fn after(self, steps: u64) -> Self {
        Self(self.0.saturating_add(steps))
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One life of one replica: random, and never used again, so that nothing that a dead replica still
/// had under way can be taken for another one's.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
)]
pub struct ReplicaId(pub u64);

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
