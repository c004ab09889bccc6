//! The grant rule, to exhaustion on small queues and at random on large ones.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone, Copy)]
enum Change {
    Join,
    Leave(usize),
}

/// Replays steps, each of changes that happen together, and checks what must hold after each.
fn replay<'a>(steps: impl Iterator<Item = &'a [Change]>) {
    let mut queue = Queue::default();
    let mut model = BTreeSet::new();
    let mut last_grant = None;
    let mut next = 0;
    for step in steps {
        let before = model.first().copied();
        for change in step {
            apply(*change, &mut next, &mut model, &mut queue);
        }
        let now = model.first().copied();
        assert_eq!(queue.holder().map(|(at, _)| at), now, "the oldest entry holds");
        let granted = queue.granted_since(before).map(|(at, _)| at);
        assert_eq!(granted, now.filter(|_| now != before), "each holder is granted once");
        if granted.is_some() {
            assert!(last_grant < granted, "tokens grow");
            last_grant = granted;
        }
        for (ahead, at) in model.iter().enumerate() {
            assert_eq!(queue.ahead_of(*at), ahead);
            assert_eq!(queue.is_held_by(*at), ahead == 0);
        }
    }
}

fn apply(change: Change, next: &mut u64, model: &mut BTreeSet<Revision>, queue: &mut Queue<u64>) {
    match change {
        Change::Join => {
            *next += 1;
            model.insert(Revision(*next));
            queue.insert(Revision(*next), *next);
        }
        Change::Leave(index) => {
            if let Some(at) = model.iter().nth(index).copied() {
                model.remove(&at);
                assert_eq!(queue.remove(at), Some(at.0), "the entry that left is the one named");
            }
        }
    }
}

/// Every history of eight changes over at most four entries, one at a time and in pairs.
#[test]
fn every_small_history_grants_in_order() {
    const CHOICES: usize = 5;
    const CHANGES: u32 = 8;
    for history in 0..CHOICES.pow(CHANGES) {
        let changes: Vec<_> = (0..CHANGES)
            .map(|digit| match history / CHOICES.pow(digit) % CHOICES {
                0 => Change::Join,
                leave => Change::Leave(leave - 1),
            })
            .collect();
        replay(changes.chunks(1));
        replay(changes.chunks(2));
    }
}

#[test]
fn leaving_twice_changes_nothing() {
    let mut queue = Queue::default();
    queue.insert(Revision(1), ());
    queue.insert(Revision(2), ());
    assert_eq!(queue.remove(Revision(1)), Some(()));
    assert_eq!(queue.remove(Revision(1)), None);
    assert!(queue.is_held_by(Revision(2)));
}

proptest! {
    #[test]
    fn long_histories_grant_in_order(
        changes in proptest::collection::vec(
            prop_oneof![Just(Change::Join), (0..200usize).prop_map(Change::Leave)],
            0..600,
        ),
        together in 1..5usize,
    ) {
        replay(changes.chunks(together));
    }
}
