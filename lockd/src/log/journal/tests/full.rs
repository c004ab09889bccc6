//! Full disks: what frees room goes on, and room is found again.

use super::{
    super::{Journal, Options},
    machine::Machine,
    story::{SEGMENT, draft, events, next, open_with, options, put, reopen, try_put},
};
use crate::{
    log::{Draft, Event, Floor, Log as _, LogError, Room},
    record::Position,
};

fn record(room: Room) -> Draft {
    Draft { room, ..draft(1, vec![b'r'; 500]) }
}

/// Appends until there is no more room; how many.
fn fill(journal: &mut Journal, room: Room) -> usize {
    for count in 0.. {
        match try_put(journal, record(room)) {
            Ok(_) => journal.sync().map(drop).unwrap(),
            Err(LogError::Full(text)) => {
                assert!(text.contains("/data/"), "{text}");
                events(journal);
                return count;
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    0
}

/// A journal on a disk on which what there is is all there is.
fn on_full_disk() -> (Machine, Journal) {
    let machine = Machine::new(1);
    let (journal, _) = reopen(&machine).unwrap();
    machine.leave(0);
    (machine, journal)
}

/// J14
#[test]
fn where_nothing_more_fits_two_segments_are_kept_for_what_frees_room() {
    let (machine, mut journal) = on_full_disk();
    // A segment full, and the one record with which the spare besides the reserve was entered.
    assert_eq!(fill(&mut journal, Room::Ordinary), 7);
    assert_eq!(machine.named("spare-").len(), 2);
    let released = fill(&mut journal, Room::Reserve);
    assert!((12..=17).contains(&released), "{released} records");
    assert!(machine.named("spare-").is_empty());
    let (_, read) = reopen(&{
        let copy = machine.copy(1);
        copy.leave(SEGMENT);
        copy.kill();
        copy
    })
    .unwrap();
    assert!(read.records.len() > released);
}

/// J14, T6
#[test]
fn a_full_disk_is_left_by_a_checkpoint() {
    let (machine, mut journal) = on_full_disk();
    fill(&mut journal, Room::Ordinary);
    machine.leave(1000);
    let at = journal.sync().unwrap();
    journal.write_chunk(at, vec![b'c'; 500].into()).unwrap();
    journal.finish_checkpoint(at).unwrap();
    let Some(Event::Checkpoint { floor, which, chunks }) = next(&mut journal) else { panic!() };
    let floor = Floor { at: floor, which, chunks, ..Floor::default() };
    put(&mut journal, record(Room::Reserve));
    journal.sync().unwrap();
    journal.trim(&floor).unwrap();
    machine.leave(20_000);
    journal.check().unwrap();
    assert!(try_put(&mut journal, record(Room::Ordinary)).is_ok(), "there is room again");
}

/// T6
#[test]
fn without_room_for_a_checkpoint_of_what_lives_nothing_new_is_taken() {
    let machine = Machine::new(1);
    let (mut journal, _) = reopen(&machine).unwrap();
    for _ in 0..4 {
        put(&mut journal, record(Room::Ordinary));
    }
    journal.sync().unwrap();
    machine.leave(journal.bytes_after_floor() - 1);
    journal.check().unwrap();
    let full = try_put(&mut journal, record(Room::Ordinary));
    assert!(matches!(full, Err(LogError::Full(text)) if text.contains("checkpoint")));
    assert!(try_put(&mut journal, record(Room::Reserve)).is_ok());
    machine.leave(100_000);
    journal.check().unwrap();
    assert!(try_put(&mut journal, record(Room::Ordinary)).is_ok());
}

#[test]
fn a_checkpoint_that_does_not_fit_is_given_up_and_leaves_nothing() {
    let (machine, mut journal) = on_full_disk();
    assert!(matches!(
        journal.write_chunk(Position(1), vec![0; 500].into()),
        Err(LogError::Full(_))
    ));
    assert!(machine.named("checkpoint-").is_empty());
    assert!(try_put(&mut journal, record(Room::Reserve)).is_ok());
    machine.leave(1000);
    journal.write_chunk(Position(1), vec![0; 500].into()).unwrap();
    journal.finish_checkpoint(Position(1)).unwrap();
    assert!(
        events(&mut journal).iter().any(|it| matches!(it, Event::Checkpoint { chunks: 1, .. }))
    );
}

/// J14: neither a daemon that dies at once nor one that writes a little first.
#[test]
fn a_crash_loop_on_a_full_disk_does_not_eat_the_reserve() {
    for records in [0, 1] {
        let machine = Machine::new(1);
        let options = Options { segment_bytes: 1 << 14, ..options() };
        drop(open_with(&machine, options.clone()).unwrap());
        machine.leave(0);
        machine.kill();
        for turn in 0..60 {
            let mut journal = open_with(&machine, options.clone()).unwrap();
            events(&mut journal);
            for _ in 0..records {
                let room = Room::Reserve;
                put(&mut journal, Draft { room, ..draft(1, "begins") });
                journal.sync().unwrap();
            }
            drop(journal);
            if turn % 2 == 0 {
                machine.kill()
            } else {
                machine.lose_power()
            }
            let spares = machine.named("spare-").len();
            assert!(spares >= 2, "{spares} spares after {turn} crashes");
        }
    }
}

/// J14: not even a spare is needed where nothing was written since the last opening.
#[test]
fn a_segment_without_records_is_used_again() {
    let (machine, mut journal) = on_full_disk();
    put(&mut journal, record(Room::Ordinary));
    put(&mut journal, record(Room::Ordinary));
    journal.sync().unwrap();
    drop(journal);
    machine.kill();
    drop(reopen(&machine).unwrap());
    for spare in machine.named("spare-") {
        machine.delete(&spare);
    }
    machine.leave(0);
    for _ in 0..3 {
        machine.kill();
        let (mut journal, read) = reopen(&machine).unwrap();
        assert_eq!(read.records.len(), 2);
        assert!(matches!(try_put(&mut journal, record(Room::Ordinary)), Err(LogError::Full(_))));
        assert_eq!(machine.named("segment-").len(), 2);
    }
}

/// Spares come back where there is room again.
#[test]
fn spares_are_made_again() {
    let (machine, mut journal) = on_full_disk();
    fill(&mut journal, Room::Ordinary);
    machine.leave(100_000);
    assert!(try_put(&mut journal, record(Room::Ordinary)).is_err());
    journal.check().unwrap();
    assert_eq!(machine.named("spare-").len(), 3);
    assert!(try_put(&mut journal, record(Room::Ordinary)).is_ok());
}

/// An opening on a disk without room for a segment says so.
#[test]
fn a_disk_too_full_to_begin_is_said_to_be_full() {
    let machine = Machine::new(1);
    machine.leave(SEGMENT);
    assert!(matches!(reopen(&machine), Err(LogError::Full(text)) if text.contains("/data/")));
}
