//! A crash at every operation: the process is killed, or the power fails.

use super::{
    machine::{Dice, Fault, Machine},
    story::{Read, Story, reopen},
};
use crate::log::LogError;

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

/// How long the explicit run's script is, if this is one.
fn script() -> Option<usize> {
    let actions = std::env::var("LOCKD_TEST_CRASH_OPERATIONS").ok()?;
    Some(actions.parse().unwrap())
}

/// J4b, J8, J9, J10, J11, J12, J14, T2, T3.
#[test]
fn nothing_acknowledged_is_lost_whatever_operation_a_crash_comes_before() {
    let operations: u64 = match script() {
        None => (0..12).map(|seed| crash_everywhere(seed * 1000, 40)).sum(),
        Some(actions) => crash_everywhere(0, actions),
    };
    println!("crashed before each of {operations} writes, syncs and renames");
    assert!(operations > 1_000, "{operations}");
}

/// After a script each bit of each file is flipped, and all that was there is delivered, or it is refused.
#[test]
fn after_a_script_one_flipped_bit_anywhere_is_refused_or_changes_nothing() {
    let mut story = Story::begin(7);
    story.open().unwrap();
    let (actions, step) = script().map_or((60, 61), |actions| (actions, 1));
    for _ in 0..actions {
        story.act().unwrap();
    }
    story.settle().unwrap();
    story.journal = None;
    story.machine.kill();
    let exact = read(&story.machine.copy(1)).unwrap();
    let (mut same, mut refused) = (0, 0);
    for name in story.machine.named("") {
        let bytes = story.machine.read(&name);
        // What lies behind the records is zero, and looked at by the byte alone.
        let is_used = |bit: &usize| bytes[bit / 8] != 0 || bit.is_multiple_of(8);
        for bit in (0..bytes.len() * 8).filter(is_used).step_by(step) {
            let copy = story.machine.copy(1);
            copy.damage(&name, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
            match read(&copy) {
                Ok(found) => {
                    assert_eq!(found, exact, "bit {bit} of {name}");
                    same += 1;
                }
                Err(LogError::Broken(text)) => {
                    assert!(text.contains("/data/"), "{text}");
                    refused += 1;
                }
                Err(other) => panic!("{other:?}"),
            }
        }
    }
    println!("flipped {} bits: {same} changed nothing, {refused} were refused", same + refused);
    assert!(same > 100 && refused > 100, "{same} the same, {refused} refused");
}

fn read(machine: &Machine) -> Result<Read, LogError> {
    reopen(machine).map(|(_, read)| read)
}
