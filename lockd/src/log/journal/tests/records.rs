//! What the shared conformance suite does not look at: several segments, files of checkpoints, and the
//! journal in memory.

use lockd_proto::clock::Clock;

use super::{
    super::Journal,
    machine::Machine,
    story::{draft, events, next, open, options, put},
};
use crate::{
    log::{Draft, Event, Floor, Log as _, Room},
    record::Position,
};

/// A journal of each kind that is live.
fn each(promise: impl Fn(Journal)) {
    let live = |mut journal: Journal| {
        assert!(matches!(events(&mut journal).as_slice(), [Event::Reset, Event::Live(_)]));
        promise(journal);
    };
    live(open(&Machine::new(1)).unwrap());
    let dir = tempfile::tempdir().unwrap();
    live(Journal::open(dir.path(), options()).unwrap());
    live(Journal::in_memory(Clock::system()).unwrap());
}

#[test]
fn it_says_what_it_is() {
    let profile = Journal::in_memory(Clock::system()).unwrap().profile().clone();
    assert_eq!((profile.name, profile.lanes, profile.is_shared), ("memory", 1, false));
    let profile = open(&Machine::new(1)).unwrap().profile().clone();
    assert_eq!((profile.name, profile.lanes, profile.is_shared), ("embedded", 1, false));
}

#[test]
fn records_have_places_without_gaps_and_barriers_come_behind_them() {
    each(|mut journal| {
        for (operations, at) in [(3, 1), (1, 4), (1024, 5), (1, 1029)] {
            journal.append(0, draft(operations, "record")).unwrap();
            journal.barrier(7);
            assert!(matches!(next(&mut journal), Some(Event::Record(it)) if it.at == Position(at)));
            assert_eq!(events(&mut journal), [Event::Barrier(7)]);
        }
        assert_eq!(journal.sync(), Ok(Position(1029)));
        assert!(journal.standing().is_fresh && journal.standing().promise_until.is_none());
    });
}

#[test]
fn records_go_on_over_many_segments() {
    each(|mut journal| {
        for number in 1..200 {
            let room = if number % 2 == 0 { Room::Reserve } else { Room::Ordinary };
            let at = put(&mut journal, Draft { room, ..draft(1, vec![b'r'; 700]) });
            assert_eq!(at, Position(number));
        }
        assert_eq!(journal.sync(), Ok(Position(199)));
        assert!(journal.bytes_after_floor() > 199 * 700);
    });
}

#[test]
fn what_a_floor_makes_needless_is_deleted() {
    let machine = Machine::new(1);
    let mut journal = open(&machine).unwrap();
    events(&mut journal);
    let mut floors = Vec::new();
    for _ in 0..3 {
        for _ in 0..300 {
            put(&mut journal, draft(1, vec![b'r'; 700]));
        }
        let at = journal.sync().unwrap();
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
