//! How much log there is behind the floor.

use std::collections::VecDeque;

use crate::record::Position;

/// How exactly it is known.
const STEP: u64 = 64 * 1024;

/// Counts the bytes of records, and remembers how many there were at places some way apart.
#[derive(Debug, Default)]
pub(super) struct Growth {
    total: u64,
    before_floor: u64,
    steps: VecDeque<(Position, u64)>,
}

impl Growth {
    /// Notes a record that ends at a place.
    pub(super) fn add(&mut self, last: Position, bytes: u64) {
        self.total += bytes;
        if self.steps.back().is_none_or(|(_, total)| self.total - total >= STEP) {
            self.steps.push_back((last, self.total));
        }
    }

    /// Notes that what lies before a place is needed no more.
    pub(super) fn trim(&mut self, floor: Position) {
        while let Some((_, total)) = self.steps.pop_front_if(|(place, _)| *place <= floor) {
            self.before_floor = total;
        }
    }

    /// The bytes behind the floor.
    pub(super) fn after_floor(&self) -> u64 {
        self.total - self.before_floor
    }
}
