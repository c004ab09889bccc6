//! J17: a folder that was restored from a backup is gone on with.

use super::{
    super::{Journal, Options},
    machine::Machine,
    story::{Read, draft, events, next, open_with, options, put},
};
use crate::{
    log::{Event, Floor, Log as _},
    record::Position,
};

/// Opens the journal with a name of a restore, and writes a record.
fn goes_on(machine: &Machine, name: Option<&str>, payload: &'static str) -> (Journal, Read, u64) {
    machine.kill();
    let accept_restored = name.map(str::to_owned);
    let mut journal = open_with(machine, Options { accept_restored, ..options() }).unwrap();
    let read = Read::of(events(&mut journal)).unwrap();
    let at = put(&mut journal, draft(1, payload));
    journal.sync().unwrap();
    (journal, read, at.0)
}

#[test]
fn each_name_of_a_restore_begins_one_era_whose_places_lie_far_ahead() {
    let machine = Machine::new(1);
    let names = [None, Some("monday"), Some("monday"), None, Some("tuesday"), Some("tuesday")];
    let mut places = Vec::new();
    for name in names {
        places.push(goes_on(&machine, name, "record").2);
    }
    let jumps: Vec<_> = places.windows(2).map(|pair| pair[1] - pair[0] >= 1 << 40).collect();
    assert_eq!(jumps, [true, false, false, true, false], "{places:?}");
    let (_, read, _) = goes_on(&machine, None, "last");
    assert_eq!(read.restored.iter().map(|it| it.0).collect::<Vec<_>>(), [1, 4]);
    for (before, at) in read.restored {
        assert!(read.records[before - 1].0 <= at && at < read.records[before].0);
    }
}

/// Crashes and openings in between neither lose it nor move it.
#[test]
fn a_restore_is_delivered_at_its_place_whatever_crashes_follow() {
    for seed in 0..40 {
        let machine = Machine::new(seed);
        goes_on(&machine, None, "before");
        machine.kill();
        let accept_restored = Some("monday".to_owned());
        drop(open_with(&machine, Options { accept_restored, ..options() }).unwrap());
        for turn in 0..4 {
            if seed % 2 == 0 {
                machine.lose_power()
            } else {
                machine.kill()
            }
            let (_, read, _) = goes_on(&machine, Some("monday"), "after");
            let before = read.restored.iter().map(|it| it.0).collect::<Vec<_>>();
            assert_eq!((before, read.records.len()), (vec![1], 1 + turn), "seed {seed}");
        }
    }
}

#[test]
fn a_restore_below_the_floor_is_not_delivered_again() {
    let machine = Machine::new(1);
    goes_on(&machine, None, "before");
    let (mut journal, ..) = goes_on(&machine, Some("monday"), "after");
    let at = journal.sync().unwrap();
    journal.finish_checkpoint(at).unwrap();
    let Some(Event::Checkpoint { floor, which, chunks }) = next(&mut journal) else { panic!() };
    journal.trim(&Floor { at: floor, which, chunks, ..Floor::default() }).unwrap();
    drop(journal);
    let (_, read, at) = goes_on(&machine, Some("monday"), "later");
    assert!(read.restored.is_empty() && read.records.is_empty(), "{read:?}");
    assert!(Position(at) > floor);
}

/// The name may be in the configuration from the start.
#[test]
fn a_new_journal_was_never_restored() {
    let machine = Machine::new(1);
    let (_, read, at) = goes_on(&machine, Some("monday"), "first");
    assert_eq!((read.restored, at), (vec![], 1));
    assert!(goes_on(&machine, Some("monday"), "second").1.restored.is_empty());
    assert!(!goes_on(&machine, Some("tuesday"), "third").1.restored.is_empty());
}
