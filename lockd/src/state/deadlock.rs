//! The search for deadlocks: to be written. The types are what the core uses.

use super::{Owner, State};
use crate::record::{Blocked, LockId, Position};

/// A deadlock.
#[derive(Debug, Clone, PartialEq)]
pub struct Cycle {
    /// The waits, the first one waiting behind the owner of the second, the last behind that of the first.
    pub waits: Vec<Blocked>,
    /// The token of the youngest of them.
    pub victim: Position,
    /// The lock that it waits for.
    pub lock: LockId,
    /// The other waits of the owners involved, which are stuck as well.
    pub others: Vec<Position>,
}

/// How far a search has come.
#[derive(Debug, Clone, PartialEq)]
pub enum Progress {
    /// It has to go on.
    More,
    /// The owner can go on.
    Nothing,
    /// The owner is stuck in this cycle, or behind it.
    Found(Cycle),
}

/// A search for a cycle that an owner is stuck in.
#[derive(Debug)]
pub struct Search {
    _owner: Owner,
}

impl Search {
    /// A search that begins at an owner.
    #[must_use]
    pub fn new(owner: Owner) -> Self {
        Self { _owner: owner }
    }

    /// Goes on, for so many places at most.
    pub fn step(&mut self, _: &State, _: usize) -> Progress {
        Progress::Nothing
    }
}
