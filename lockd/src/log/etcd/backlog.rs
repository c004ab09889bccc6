//! How many bytes of records lie after the floor.

use std::collections::VecDeque;

use crate::record::Position;

/// Records are counted together up to this size.
const BUCKET_BYTES: u64 = 16 * 1024;

/// The sizes of records, by their places.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    /// The place of the last record of each bucket, and the bytes in it.
    buckets: VecDeque<(Position, u64)>,
    bytes: u64,
}

impl Backlog {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn add(&mut self, at: Position, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.bytes = self.bytes.saturating_add(bytes);
        match self.buckets.back_mut() {
            Some((last, sum)) if *sum < BUCKET_BYTES => {
                *last = at;
                *sum = sum.saturating_add(bytes);
            }
            _ => self.buckets.push_back((at, bytes)),
        }
    }

    /// What lies up to a floor counts no more.
    pub(super) fn cut(&mut self, floor: Position) {
        while let Some((_, bytes)) = self.buckets.pop_front_if(|(last, _)| *last <= floor) {
            self.bytes = self.bytes.saturating_sub(bytes);
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_below_the_floor_counts_no_more() {
        let mut backlog = Backlog::default();
        for at in 1..=100 {
            backlog.add(Position(at), 10_000);
        }
        assert_eq!(backlog.bytes(), 1_000_000);
        assert!(backlog.buckets.len() <= 50);
        backlog.cut(Position(50));
        assert!((500_000..600_000).contains(&backlog.bytes()), "{}", backlog.bytes());
        backlog.cut(Position(100));
        assert_eq!(backlog.bytes(), 0);
    }
}
