//! A crash at every operation: the process is killed, or the power fails.

use super::{
    machine::{Dice, Fault, Machine},
    story::Story,
};

/// Everything that a crash at each operation of a story can have left is opened again, verified,
/// used and crashed once more. Returns how many operations there were.
fn crash_everywhere(seed: u64, actions: usize) -> u64 {
    let mut story = Story::begin(seed);
    let mut dice = Dice::new(seed + 2);
    story.machine.fork();
    for action in 0..actions {
        let mut known = story.known.clone();
        if action == 0 { story.open() } else { story.act() }.unwrap();
        // Whatever was appended or put in force since may be there and need not.
        known.may_have(&story.known);
        for (number, fork) in story.machine.forks().into_iter().enumerate() {
            for is_power in [false, true] {
                let after = Story {
                    machine: fork
                        .copy(seed + u64::try_from(number).unwrap() * 2 + u64::from(is_power)),
                    journal: None,
                    known: known.clone(),
                    dice: Dice::new(seed + u64::try_from(number).unwrap()),
                };
                go_on(after, is_power, &mut dice);
            }
        }
    }
    story.machine.operations()
}

fn crash(machine: &Machine, is_power: bool) {
    if is_power { machine.lose_power() } else { machine.kill() }
}

/// Opens what a crash has left. It may crash again in the midst of it, and some time later.
fn go_on(mut story: Story, is_power: bool, dice: &mut Dice) {
    crash(&story.machine, is_power);
    if dice.one_in(3) {
        let at = story.machine.operations() + 1 + u64::try_from(dice.below(30)).unwrap();
        story.machine.fail(Fault::DeadAt(at));
        let before = story.known.clone();
        let opened = story.open();
        let acted = opened.and_then(|()| story.act()).and_then(|()| story.act());
        if acted.is_err() && story.journal.is_none() {
            story.known = before;
        }
        story.journal = None;
        crash(&story.machine, dice.one_in(2));
    }
    story.open().unwrap();
    if dice.one_in(4) {
        for _ in 0..1 + dice.below(4) {
            story.act().unwrap();
        }
        story.journal = None;
        crash(&story.machine, dice.one_in(2));
        story.open().unwrap();
    }
}

/// J4b, J8, J9, J10, J11, J12, J14, T2, T3.
#[test]
fn nothing_acknowledged_is_lost_whatever_operation_a_crash_comes_before() {
    let operations: u64 = (0..12).map(|seed| crash_everywhere(seed * 1000, 40)).sum();
    assert!(operations > 1_000, "{operations}");
}
