//! Who waits for whom, and which of them will wait for ever.
//!
//! An owner is one logical task. It goes on if one of its waits does, and a wait goes on if
//! everybody who is in its way does. An owner that is stuck by this rule is part of a cycle of
//! waits, or behind one. Only what must leave is in the way: a holder beside whom there is
//! room is not, so a cycle found here is a deadlock and no suspicion of one.
//!
//! Pure: what the waits are is the view's to say.

use std::collections::{HashMap, HashSet};

use crate::store::Revision;

/// A wait of an owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait<O> {
    /// Who waits.
    pub owner: O,
    /// The waiting entry's revision, which tells its age.
    pub token: Revision,
    /// Owners that must leave for it to be granted.
    pub blockers: Vec<O>,
}

/// A cycle of waits, as indices: each wait is blocked by the owner of the next one. `None` if
/// everybody can go on.
#[must_use]
pub fn cycle<O: Eq + std::hash::Hash>(waits: &[Wait<O>]) -> Option<Vec<usize>> {
    let stuck = stuck(waits);
    // The youngest wait of each stuck owner that has a stuck owner in its way: every one has.
    let mut youngest: HashMap<&O, usize> = HashMap::new();
    for (index, wait) in waits.iter().enumerate().filter(|(_, wait)| stuck.contains(&wait.owner)) {
        let best = youngest.entry(&wait.owner).or_insert(index);
        if waits.get(*best).is_some_and(|known| known.token < wait.token) {
            *best = index;
        }
    }
    let mut at = *youngest.values().min()?;
    let mut path = Vec::new();
    loop {
        if let Some(start) = path.iter().position(|seen| *seen == at) {
            return Some(path.split_off(start));
        }
        path.push(at);
        let blocker = waits.get(at)?.blockers.iter().find(|owner| stuck.contains(owner))?;
        at = *youngest.get(blocker)?;
    }
}

/// The wait of a cycle that is to end: the youngest, which has waited least.
#[must_use]
pub fn victim<O>(waits: &[Wait<O>], cycle: &[usize]) -> Option<usize> {
    cycle.iter().copied().max_by_key(|index| waits.get(*index).map(|wait| wait.token))
}

/// The owners that can never go on: all of whose waits have a stuck owner in their way.
fn stuck<O: Eq + std::hash::Hash>(waits: &[Wait<O>]) -> HashSet<&O> {
    let mut stuck: HashSet<&O> = waits.iter().map(|wait| &wait.owner).collect();
    loop {
        let goes_on = |wait: &&Wait<O>| !wait.blockers.iter().any(|owner| stuck.contains(owner));
        let free: Vec<_> = waits.iter().filter(goes_on).map(|wait| &wait.owner).collect();
        let before = stuck.len();
        for owner in free {
            stuck.remove(owner);
        }
        if stuck.len() == before {
            return stuck;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wait(owner: u8, token: u64, blockers: &[u8]) -> Wait<u8> {
        Wait { owner, token: Revision(token), blockers: blockers.to_vec() }
    }

    fn tokens(waits: &[Wait<u8>]) -> Option<(Vec<u64>, u64)> {
        let cycle = cycle(waits)?;
        let victim = victim(waits, &cycle)?;
        let mut tokens: Vec<_> = cycle.iter().map(|at| waits[*at].token.0).collect();
        tokens.sort_unstable();
        Some((tokens, waits[victim].token.0))
    }

    #[test]
    fn two_that_wait_for_each_other() {
        let waits = [wait(1, 10, &[2]), wait(2, 11, &[1])];
        assert_eq!(tokens(&waits), Some((vec![10, 11], 11)));
    }

    #[test]
    fn a_chain_that_ends_is_no_cycle() {
        assert_eq!(tokens(&[wait(1, 10, &[2]), wait(2, 11, &[3])]), None);
    }

    #[test]
    fn who_waits_behind_a_cycle_is_not_in_it() {
        let waits = [wait(3, 30, &[1]), wait(1, 10, &[2]), wait(2, 11, &[1])];
        assert_eq!(tokens(&waits), Some((vec![10, 11], 11)));
    }

    #[test]
    fn an_owner_with_another_wait_that_goes_on_is_not_stuck() {
        let waits = [wait(1, 10, &[2]), wait(1, 12, &[9]), wait(2, 11, &[1])];
        assert_eq!(tokens(&waits), None);
        let waits = [wait(1, 10, &[2]), wait(1, 12, &[2]), wait(2, 11, &[1])];
        assert_eq!(tokens(&waits), Some((vec![11, 12], 12)));
    }

    #[test]
    fn one_that_waits_for_itself() {
        assert_eq!(tokens(&[wait(1, 10, &[1])]), Some((vec![10], 10)));
    }

    /// An independent definition: simulate. Owners without waits finish; whoever finishes is
    /// in nobody's way any more; an owner whose wait has nobody in its way finishes.
    fn everybody_finishes(waits: &[Wait<u8>]) -> bool {
        let mut open: HashSet<u8> = waits.iter().map(|wait| wait.owner).collect();
        loop {
            let next = open.iter().copied().find(|owner| {
                let mut own = waits.iter().filter(|wait| wait.owner == *owner);
                own.any(|wait| wait.blockers.iter().all(|blocker| !open.contains(blocker)))
            });
            match next {
                Some(owner) => drop(open.remove(&owner)),
                None => return open.is_empty(),
            }
        }
    }

    proptest! {
        #[test]
        fn a_cycle_is_found_if_and_only_if_somebody_never_finishes(
            graph in proptest::collection::vec((0..6u8, proptest::collection::vec(0..6u8, 0..3)), 0..10)
        ) {
            let waits: Vec<_> = graph
                .into_iter()
                .zip(1u64..)
                .map(|((owner, blockers), token)| wait(owner, token, &blockers))
                .collect();
            let found = cycle(&waits);
            prop_assert_eq!(found.is_none(), everybody_finishes(&waits));
            for (at, next) in found.iter().flat_map(|c| c.iter().zip(c.iter().cycle().skip(1))) {
                prop_assert!(waits[*at].blockers.contains(&waits[*next].owner), "a true cycle");
            }
        }
    }
}
