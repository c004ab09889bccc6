//! Numbers of barriers, as ranges: callers count upwards, so that any number of them takes little room.

use std::{collections::VecDeque, ops::RangeInclusive};

/// A list of numbers.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Numbers(VecDeque<RangeInclusive<u64>>);

impl Numbers {
    pub(super) fn push(&mut self, number: u64) {
        match self.0.back_mut() {
            Some(last) if last.end().checked_add(1) == Some(number) => {
                *last = *last.start()..=number;
            }
            _ => self.0.push_back(number..=number),
        }
    }

    pub(super) fn pop(&mut self) -> Option<u64> {
        let first = self.0.pop_front()?;
        let number = *first.start();
        if number < *first.end() {
            self.0.push_front(number.saturating_add(1)..=*first.end());
        }
        Some(number)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn append(&mut self, mut others: Self) {
        self.0.append(&mut others.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_out_as_they_went_in_and_neighbours_share_a_range() {
        let mut numbers = Numbers::default();
        for number in [1, 2, 3, 7, 7, u64::MAX] {
            numbers.push(number);
        }
        assert_eq!(numbers.0.len(), 4);
        let all: Vec<_> = std::iter::from_fn(|| numbers.pop()).collect();
        assert_eq!(all, [1, 2, 3, 7, 7, u64::MAX]);
        assert!(numbers.is_empty());
    }
}
