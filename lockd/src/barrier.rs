//! What a barrier is at: a pure function of its first parties.
//!
//! Parties are never taken out one by one: one that leaves, early or in order, says so in its
//! record, and one that dies leaves its entry behind. So the state can be read from the queue
//! alone, by a replica that has seen nothing of what led to it. When all have left, or all
//! that are left know that it is broken, their entries are deleted in one step, and the
//! barrier begins anew.

use crate::record::Mark;

/// A party as the barrier sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Party {
    /// It waits, or is inside.
    Here,
    /// It waits for the others to leave.
    Left,
    /// It has left, and died while it waited for the others: they miss nothing.
    LeftAndDied,
    /// It has died inside, or left early.
    Lost,
}

impl Party {
    /// The party with this mark, whose session is or is not there.
    #[must_use]
    pub fn new(mark: Mark, alive: bool) -> Self {
        match (mark, alive) {
            (Mark::Here, true) => Self::Here,
            (Mark::Left, true) => Self::Left,
            (Mark::Left, false) => Self::LeftAndDied,
            (Mark::Gone, _) | (Mark::Here, false) => Self::Lost,
        }
    }
}

/// What a barrier is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Parties are missing, or some are inside.
    Open,
    /// A party is lost, and others have yet to hear of it.
    Broken,
    /// Every party has left, or none is there to hear of anything: the entries can go.
    Over,
}

/// The stage of a barrier of `size`, by its first parties in the order of their coming, at
/// most `size` of them.
#[must_use]
pub fn stage(parties: &[Party], size: usize) -> Stage {
    let left = |party: &Party| matches!(party, Party::Left | Party::LeftAndDied);
    let knows = |party: &Party| matches!(party, Party::Lost | Party::LeftAndDied);
    if parties.contains(&Party::Lost) {
        return if parties.iter().all(knows) { Stage::Over } else { Stage::Broken };
    }
    if parties.len() == size && parties.iter().all(left) { Stage::Over } else { Stage::Open }
}

#[cfg(test)]
mod tests {
    use super::{Party::*, Stage::*, *};

    #[test]
    fn all_leave_together_or_none_has_left() {
        assert_eq!(stage(&[], 2), Open);
        assert_eq!(stage(&[Here, Left], 2), Open);
        assert_eq!(stage(&[Left], 2), Open);
        assert_eq!(stage(&[Left, Left], 2), Over);
    }

    #[test]
    fn one_that_is_lost_breaks_it_until_all_know() {
        assert_eq!(stage(&[Here, Lost], 2), Broken);
        assert_eq!(stage(&[Left, Lost], 3), Broken);
        assert_eq!(stage(&[Lost, Lost], 3), Over);
    }

    #[test]
    fn whoever_dies_inside_is_lost_and_whoever_had_left_is_not() {
        assert_eq!(Party::new(Mark::Here, false), Lost);
        assert_eq!(Party::new(Mark::Gone, true), Lost);
        assert_eq!(Party::new(Mark::Left, false), LeftAndDied);
        assert_eq!(stage(&[LeftAndDied, Here], 2), Open);
        assert_eq!(stage(&[LeftAndDied, Left], 2), Over);
        assert_eq!(stage(&[LeftAndDied, Lost], 3), Over);
        assert_eq!(stage(&[LeftAndDied, Lost, Left], 3), Broken);
    }
}
