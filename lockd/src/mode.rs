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

use lockd_proto::v1::{self, mode::Mode as Wire};

/// How an entry shares its lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// With nobody.
    #[default]
    Exclusive,
    /// With other shared entries.
    Shared,
    /// With as many as the capacity has permits.
    Permits {
        /// How many it takes.
        count: u32,
        /// How many there are.
        capacity: u32,
    },
    /// With the other parties, once they are all there.
    Party {
        /// How many meet.
        parties: u32,
    },
    /// With everybody, always.
    Share(OnLoss),
    /// With nobody; a result ends it for ever.
    Once,
}

/// What becomes of a wait group when a share's session dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnLoss {
    /// The share is given back.
    Release,
    /// The group has failed.
    Fail,
}

/// What a queue is. All of its entries are of the kind of the first one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
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
    pub fn kind(self) -> Kind {
        match self {
            Self::Exclusive | Self::Shared => Kind::Lock,
            Self::Permits { capacity, .. } => Kind::Semaphore { capacity },
            Self::Party { parties } => Kind::Barrier { parties },
            Self::Share(on_loss) => Kind::Group(on_loss),
            Self::Once => Kind::Once,
        }
    }

    /// How much of its queue's [capacity](Kind::capacity) it takes.
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

    /// The mode that a message stands for.
    ///
    /// # Errors
    /// A count out of its range.
    pub fn from_wire(mode: Option<&v1::Mode>) -> Result<Self, String> {
        let Some(mode) = mode.and_then(|mode| mode.mode.as_ref()) else {
            return Ok(Self::default());
        };
        Ok(match mode {
            Wire::Exclusive(v1::Exclusive {}) => Self::Exclusive,
            Wire::Shared(v1::Shared {}) => Self::Shared,
            Wire::Permits(v1::Permits { count, capacity }) => {
                if *count == 0 || count > capacity {
                    return Err(format!(
                        "asks for {count} of {capacity} permits: ask for 1 to {capacity}"
                    ));
                }
                Self::Permits { count: *count, capacity: *capacity }
            }
            Wire::Party(v1::Party { parties }) => {
                if !(1..=MAX_PARTIES).contains(parties) {
                    return Err(format!("is for {parties} parties: 1 to {MAX_PARTIES} can meet"));
                }
                Self::Party { parties: *parties }
            }
            Wire::Share(share) => Self::Share(match share.on_loss() {
                v1::ShareLoss::Unspecified | v1::ShareLoss::Release => OnLoss::Release,
                v1::ShareLoss::Fail => OnLoss::Fail,
            }),
            Wire::Once(v1::Once {}) => Self::Once,
        })
    }

    /// The message for it.
    #[must_use]
    pub fn to_wire(self) -> v1::Mode {
        let mode = match self {
            Self::Exclusive => Wire::Exclusive(v1::Exclusive {}),
            Self::Shared => Wire::Shared(v1::Shared {}),
            Self::Permits { count, capacity } => Wire::Permits(v1::Permits { count, capacity }),
            Self::Party { parties } => Wire::Party(v1::Party { parties }),
            Self::Share(on_loss) => {
                let on_loss = match on_loss {
                    OnLoss::Release => v1::ShareLoss::Release,
                    OnLoss::Fail => v1::ShareLoss::Fail,
                };
                Wire::Share(v1::Share { on_loss: on_loss.into() })
            }
            Self::Once => Wire::Once(v1::Once {}),
        };
        v1::Mode { mode: Some(mode) }
    }
}

/// The most parties of a barrier: its entries leave in one operation.
#[allow(clippy::cast_possible_truncation, reason = "a constant of 100")]
const MAX_PARTIES: u32 = crate::store::MAX_DELETES as u32;

impl Kind {
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

impl fmt::Display for Kind {
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
