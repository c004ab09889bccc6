//! What any log promises, of the journal on a machine, on disk and in memory.

use lockd_proto::clock::Clock;

use super::{
    super::Journal,
    machine::Machine,
    story::{draft, events, next, open, options},
};
use crate::{
    log::{
        Delivered, Draft, Event, Floor, Log as _, LogError, MAX_OPERATIONS, MAX_RECORD_BYTES, Room,
    },
    record::Position,
};

/// A journal of each kind.
fn each(promise: impl Fn(Journal)) {
    promise(open(&Machine::new(1)).unwrap());
    let dir = tempfile::tempdir().unwrap();
    promise(Journal::open(dir.path(), options()).unwrap());
    promise(Journal::in_memory(Clock::system()).unwrap());
}

fn live(journal: &mut Journal) {
    assert!(matches!(events(journal).as_slice(), [Event::Reset, Event::Live(_)]));
}

#[test]
fn it_says_what_it_is() {
    let profile = Journal::in_memory(Clock::system()).unwrap().profile().clone();
    assert_eq!((profile.name, profile.lanes, profile.is_shared), ("memory", 1, false));
    let profile = open(&Machine::new(1)).unwrap().profile().clone();
    assert_eq!((profile.name, profile.lanes, profile.is_shared), ("embedded", 1, false));
}

#[test]
fn records_come_back_at_once_in_order_and_with_their_places() {
    each(|mut journal| {
        let Some(Event::Live(me)) = events(&mut journal).pop() else { panic!() };
        assert!(journal.is_idle(0));
        for (operations, at) in [(3, 1), (1, 4), (1024, 5), (1, 1029)] {
            journal.append(0, draft(operations, "record")).unwrap();
            let (at, lane, bytes) = (Position(at), Some(0), "record".into());
            let record = Delivered { at, author: me, lane, bytes };
            assert_eq!(events(&mut journal), [Event::Record(record)]);
        }
        assert_eq!(journal.sync(), Ok(Position(1029)));
        let standing = journal.standing();
        assert!(standing.is_fresh && standing.promise_until.is_none());
    });
}

#[test]
fn it_can_be_written_to_as_soon_as_it_is_live() {
    each(|mut journal| {
        while !matches!(next(&mut journal), Some(Event::Live(_))) {}
        assert!(journal.append(0, draft(1, "one")).is_ok());
    });
}

#[test]
fn a_barrier_comes_behind_what_was_appended() {
    each(|mut journal| {
        live(&mut journal);
        journal.append(0, draft(1, "one")).unwrap();
        journal.barrier(7);
        journal.append(0, draft(1, "two")).unwrap();
        let found = events(&mut journal);
        assert!(matches!(
            found.as_slice(),
            [Event::Record(_), Event::Barrier(7), Event::Record(_)]
        ));
    });
}

#[test]
fn a_record_of_another_size_than_is_allowed_is_not_taken() {
    each(|mut journal| {
        live(&mut journal);
        let too_many = u32::try_from(MAX_OPERATIONS).unwrap() + 1;
        let too_large = vec![0; MAX_RECORD_BYTES + 1];
        for bad in [draft(0, "none"), draft(too_many, "many"), draft(1, too_large)] {
            assert!(matches!(journal.append(0, bad), Err(LogError::Unavailable(_))));
        }
        assert!(journal.append(0, draft(1, "good")).is_ok());
    });
}

#[test]
fn records_go_on_over_many_segments() {
    each(|mut journal| {
        live(&mut journal);
        for number in 1..200 {
            let room = if number % 2 == 0 { Room::Reserve } else { Room::Ordinary };
            journal.append(0, Draft { room, ..draft(1, vec![b'r'; 700]) }).unwrap();
            let Some(Event::Record(record)) = next(&mut journal) else { panic!() };
            assert_eq!(record.at, Position(number));
        }
        assert_eq!(journal.sync(), Ok(Position(199)));
        assert!(journal.bytes_after_floor() > 199 * 700);
    });
}

#[test]
fn a_floor_is_put_in_force_once_and_never_taken_back() {
    let machine = Machine::new(1);
    let mut journal = open(&machine).unwrap();
    live(&mut journal);
    let mut floors = Vec::new();
    for _ in 0..3 {
        for _ in 0..300 {
            journal.append(0, draft(1, vec![b'r'; 700])).unwrap();
        }
        let at = journal.sync().unwrap();
        events(&mut journal);
        journal.write_chunk(at, "chunk".into()).unwrap();
        journal.write_chunk(at, "chunk".into()).unwrap();
        journal.finish_checkpoint(at).unwrap();
        let Some(Event::Checkpoint { floor, which, chunks: 2 }) = next(&mut journal) else {
            panic!()
        };
        assert_eq!(floor, at);
        floors.push(Floor { at, which, chunks: 2, ..Floor::default() });
    }
    let before = journal.bytes_after_floor();
    journal.trim(&floors[1]).unwrap();
    let after = journal.bytes_after_floor();
    assert!(after < before / 2, "{after} of {before} bytes");
    journal.trim(&floors[0]).unwrap();
    assert_eq!(journal.bytes_after_floor(), after, "a lower floor changes nothing");
    journal.trim(&floors[1]).unwrap();
    assert_eq!(machine.named("checkpoint-").len(), 2, "the one in force, and a newer one");
    journal.trim(&floors[2]).unwrap();
    assert_eq!(machine.named("checkpoint-").len(), 1);
    assert!(machine.named("segment-").len() <= 2);
    assert!(journal.bytes_after_floor() < 70_000);
}
