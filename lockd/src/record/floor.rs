//! A checkpoint, and up to where it makes records needless.

use serde::{Deserialize, Serialize};

use super::Position;

/// A checkpoint that is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Floor {
    /// The place of the last operation in it.
    pub at: Position,
    /// Names the checkpoint among those at the same floor.
    pub which: u64,
    /// How many chunks it has.
    pub chunks: u64,
    /// How many items there are in them.
    pub items: u64,
    /// The digest of the state as it was.
    pub digest: u128,
    /// The level of operations in force there. Read before anything else.
    pub level: u32,
}
