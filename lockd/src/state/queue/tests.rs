//! The grant rule, to exhaustion on small queues and at random on large ones: what the queue
//! grants step by step is what the rule says of the whole queue.

use proptest::prelude::*;

use super::*;
use crate::record::{
    Mode::{Exclusive, Once, Permits, Shared},
    OnLoss,
};

impl Seated for Mode {
    fn mode(&self) -> Mode {
        *self
    }
}

/// The grant rule, word for word: how many entries at the head of a queue hold it.
pub(in crate::state) fn holders(modes: impl IntoIterator<Item = Mode>) -> usize {
    let mut modes = modes.into_iter().peekable();
    let Some(kind) = modes.peek().map(|first| first.kind()) else {
        return 0;
    };
    let mut taken = 0;
    let run = modes.take_while(|mode| {
        taken += mode.weight();
        mode.kind() == kind && taken <= kind.capacity()
    });
    match (kind, run.count()) {
        (QueueKind::Barrier { parties }, here) if (here as u64) < u64::from(parties) => 0,
        (_, count) => count,
    }
}

#[derive(Debug, Clone, Copy)]
enum Change {
    Join(Mode),
    Leave(usize),
    Downgrade(usize),
}

/// Entries in order, and which of them were granted.
#[derive(Default)]
struct Replay {
    queue: Queue<Mode>,
    model: Vec<(u64, Mode)>,
    granted: Vec<u64>,
    last_grant: u64,
    next: u64,
}

impl Replay {
    /// Replays steps, each of changes that happen together, and checks what must hold after
    /// each.
    fn run<'a>(steps: impl Iterator<Item = &'a [Change]>) {
        let mut replay = Self::default();
        for step in steps {
            step.iter().for_each(|change| replay.apply(*change));
            replay.check();
        }
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::Join(mode) => {
                self.next += 1;
                self.model.push((self.next, mode));
                self.queue.insert(Position(self.next), mode);
            }
            Change::Leave(index) if index < self.model.len() => {
                let (at, mode) = self.model.remove(index);
                self.granted.retain(|granted| *granted != at);
                assert_eq!(self.queue.get(Position(at)), Some(&mode), "the one that is named");
                self.queue.remove(&[Position(at)]);
            }
            Change::Downgrade(index) => {
                if let Some((at, mode @ Exclusive)) = self.model.get_mut(index)
                    && self.granted.contains(at)
                {
                    *mode = Shared;
                    self.queue.replace(Position(*at), Shared);
                }
            }
            Change::Leave(_) => {}
        }
    }

    fn check(&mut self) {
        let count = self.queue.advance().count();
        let rule = holders(self.model.iter().map(|(_, mode)| *mode));
        let tokens: Vec<_> = self.model.iter().map(|(at, _)| *at).collect();
        assert_eq!(self.queue.held(), rule, "what is granted is what the rule says");
        for (index, at) in tokens.iter().enumerate() {
            assert_eq!(self.queue.is_held_by(Position(*at)), index < rule);
            assert_eq!(self.queue.ahead_of(Position(*at)), index);
        }
        let fresh: Vec<_> =
            tokens.iter().take(rule).copied().filter(|at| !self.granted.contains(at)).collect();
        assert_eq!(count, fresh.len(), "each is granted once");
        for token in fresh {
            assert!(token > self.last_grant, "tokens grow with every grant");
            self.last_grant = token;
            self.granted.push(token);
        }
        assert!(self.granted.iter().all(|at| tokens[..rule].contains(at)), "no grant is undone");
    }
}

/// Every history of seven changes over a few entries, one at a time and in pairs.
#[test]
fn every_small_history_grants_by_the_rule() {
    let choices = [
        Change::Join(Exclusive),
        Change::Join(Shared),
        Change::Leave(0),
        Change::Leave(1),
        Change::Leave(2),
        Change::Downgrade(0),
    ];
    const CHANGES: u32 = 7;
    for history in 0..choices.len().pow(CHANGES) {
        let digit = |digit| choices[history / choices.len().pow(digit) % choices.len()];
        let changes: Vec<_> = (0..CHANGES).map(digit).collect();
        Replay::run(changes.chunks(1));
        Replay::run(changes.chunks(2));
    }
}

fn mode() -> impl Strategy<Value = Mode> {
    prop_oneof![
        4 => Just(Exclusive),
        4 => Just(Shared),
        4 => (1..4u32).prop_map(|count| Permits { count, capacity: 3 }),
        1 => (1..3u32).prop_map(|count| Permits { count, capacity: 2 }),
        1 => Just(Mode::Share(OnLoss::Release)),
        1 => Just(Once),
    ]
}

fn any_mode() -> impl Strategy<Value = Mode> {
    prop_oneof![4 => mode(), 2 => (1..4u32).prop_map(|parties| Mode::Party { parties })]
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let change = prop_oneof![
        3 => mode().prop_map(Change::Join),
        3 => (0..20usize).prop_map(Change::Leave),
        1 => (0..5usize).prop_map(Change::Downgrade),
    ];
    proptest::collection::vec(change, 0..400)
}

proptest! {
    #[test]
    fn long_histories_grant_by_the_rule(changes in changes(), together in 1..5usize) {
        Replay::run(changes.chunks(together));
    }

    /// The rule itself: compatible, longest, and by order alone.
    #[test]
    fn the_rule_grants_the_longest_compatible_run(
        modes in proptest::collection::vec(mode(), 0..12),
    ) {
        let fits = |run: &[Mode]| {
            let kind = run.first().map(|mode| mode.kind());
            let taken: u64 = run.iter().map(|mode| mode.weight()).sum();
            kind.is_none_or(|kind| {
                taken <= kind.capacity() && run.iter().all(|mode| mode.kind() == kind)
            })
        };
        let held = holders(modes.iter().copied());
        prop_assert!(fits(&modes[..held]), "holders are compatible");
        if held < modes.len() {
            prop_assert!(!fits(&modes[..=held]), "none waits that could hold");
        }
    }

    /// What a try is answered by is what would become of it.
    #[test]
    fn an_entry_would_be_granted_if_and_only_if_it_is(
        modes in proptest::collection::vec(any_mode(), 0..6),
        next in any_mode(),
    ) {
        // Entries of another kind are refused before.
        let kind = modes.first().map_or(next.kind(), |first| first.kind());
        let modes = modes.into_iter().filter(|mode| mode.kind() == kind);
        let mut queue = Queue::default();
        for (mode, at) in modes.zip(1..) {
            queue.insert(Position(at), mode);
            queue.advance().count();
        }
        let would = queue.would_grant(next);
        if next.kind() != kind {
            prop_assert!(!would);
            return Ok(());
        }
        queue.insert(Position(99), next);
        queue.advance().count();
        prop_assert_eq!(queue.is_held_by(Position(99)), would);
    }

    #[test]
    fn parties_come_in_together_and_go_together(
        parties in 1..5u32,
        arrivals in proptest::collection::vec(any::<bool>(), 0..40),
    ) {
        let party = Mode::Party { parties };
        let (mut queue, mut next, mut inside) = (Queue::default(), 0u64, Vec::new());
        let mut waiting = Vec::new();
        for arrives in arrivals {
            if arrives {
                next += 1;
                queue.insert(Position(next), party);
                waiting.push(next);
            } else {
                queue.remove(&inside.drain(..).map(Position).collect::<Vec<_>>());
            }
            let granted = queue.advance().count();
            if inside.is_empty() && waiting.len() >= parties as usize {
                inside = waiting.drain(..parties as usize).collect();
                prop_assert_eq!(granted, parties as usize, "all at once");
            } else {
                prop_assert_eq!(granted, 0, "not before, and not beside those inside");
            }
        }
    }
}

#[test]
fn readers_behind_a_writer_wait_and_then_come_in_together() {
    let mut queue = Queue::default();
    for (at, mode) in [(1, Shared), (2, Exclusive), (3, Shared), (4, Shared)] {
        queue.insert(Position(at), mode);
    }
    assert_eq!(queue.advance().count(), 1);
    queue.remove(&[Position(1)]);
    assert_eq!(queue.advance().count(), 1, "the writer");
    queue.remove(&[Position(2)]);
    assert_eq!(queue.advance().count(), 2, "both readers");
}

#[test]
fn a_big_request_at_the_head_is_not_overtaken() {
    let permits = |count| Permits { count, capacity: 3 };
    let mut queue = Queue::default();
    for (at, count) in [(1, 2), (2, 3), (3, 1)] {
        queue.insert(Position(at), permits(count));
    }
    assert_eq!(queue.advance().count(), 1, "one permit is free, and stays so");
    assert!(!queue.would_grant(permits(1)));
    queue.remove(&[Position(1)]);
    assert_eq!(queue.advance().count(), 1);
    assert!(queue.is_held_by(Position(2)));
}

#[test]
fn an_entry_of_another_kind_holds_beside_nobody() {
    assert_eq!(holders([Shared, Permits { count: 1, capacity: 9 }]), 1);
    let (of_two, of_three) = (Permits { count: 1, capacity: 2 }, Permits { count: 1, capacity: 3 });
    assert_eq!(holders([of_two, of_three, of_two]), 1);
}

#[test]
fn leaving_twice_changes_nothing() {
    let mut queue = Queue::default();
    queue.insert(Position(1), Exclusive);
    queue.insert(Position(2), Exclusive);
    queue.remove(&[Position(1)]);
    queue.remove(&[Position(1)]);
    assert_eq!(queue.advance().count(), 1);
    assert!(queue.is_held_by(Position(2)));
}
