//! How an entry shares its lock with others: what every primitive is made of.
//!
//! | primitive | entries |
//! |---|---|
//! | lock, election, several locks as one | `Exclusive` |
//! | read/write lock | `Exclusive`, `Shared` |
//! | semaphore | `Permits` |
//! | barrier | `Party` |
//! | latch, wait group | `Share` |
//! | once | `Once` |
//!
//! No I/O, no clock, no async.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How an entry shares its lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Mode {
    /// Held by one entry alone.
    #[default]
    Exclusive,
    /// Held together with other shared entries.
    Shared,
    /// Held together with as many as the capacity has permits.
    Permits {
        /// How many it takes.
        count: u32,
        /// How many there are.
        capacity: u32,
    },
    /// Held together with the other parties, once all have come.
    Party {
        /// How many meet.
        parties: u32,
    },
    /// Always held.
    Share(OnLoss),
    /// Held by one entry alone; a result ends it for ever.
    Once,
}

/// What becomes of a wait group when a share's session dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnLoss {
    /// The share is given back.
    Release,
    /// The group has failed.
    Fail,
}

/// What a queue is. All of its entries are of the kind of the first one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum QueueKind {
    /// Exclusive and shared entries.
    Lock,
    /// Permits.
    Semaphore {
        /// How many there are.
        capacity: u32,
    },
    /// Parties.
    Barrier {
        /// How many meet.
        parties: u32,
    },
    /// Shares.
    Group(OnLoss),
    /// Runs.
    Once,
}

/// More than any number of entries can add up to.
const WHOLE: u64 = u64::MAX / 2;

impl Mode {
    /// What its queue is.
    #[must_use]
    pub fn kind(self) -> QueueKind {
        match self {
            Self::Exclusive | Self::Shared => QueueKind::Lock,
            Self::Permits { capacity, .. } => QueueKind::Semaphore { capacity },
            Self::Party { parties } => QueueKind::Barrier { parties },
            Self::Share(on_loss) => QueueKind::Group(on_loss),
            Self::Once => QueueKind::Once,
        }
    }

    /// How much of its queue's capacity it takes.
    #[must_use]
    pub fn weight(self) -> u64 {
        match self {
            Self::Exclusive | Self::Once => WHOLE,
            Self::Shared | Self::Party { .. } | Self::Share(_) => 1,
            Self::Permits { count, .. } => count.into(),
        }
    }

    /// Whether it can never be held together with another entry.
    #[must_use]
    pub fn is_alone(self) -> bool {
        self.weight() == WHOLE
    }

    /// Whether two entries of one queue could ever be held at the same time.
    #[must_use]
    pub fn is_compatible_with(self, other: Self) -> bool {
        self.kind() == other.kind() && self.weight() + other.weight() <= self.kind().capacity()
    }
}

impl QueueKind {
    /// How much its holders may take together.
    #[must_use]
    pub fn capacity(self) -> u64 {
        match self {
            Self::Lock | Self::Group(_) | Self::Once => WHOLE,
            Self::Semaphore { capacity } => capacity.into(),
            Self::Barrier { parties } => parties.into(),
        }
    }
}

impl fmt::Display for QueueKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lock => f.write_str("a lock"),
            Self::Semaphore { capacity } => write!(f, "a semaphore with a capacity of {capacity}"),
            Self::Barrier { parties } => write!(f, "a barrier of {parties} parties"),
            Self::Group(OnLoss::Release) => f.write_str("a wait group that gets lost shares back"),
            Self::Group(OnLoss::Fail) => f.write_str("a wait group that fails with a lost share"),
            Self::Once => f.write_str("a once"),
        }
    }
}
