//! What any log promises.

use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use lockd_proto::clock::Clock;

use crate::log::{
    Draft, Event, Log, Room,
    journal::{Journal, Options},
};

fn next(log: &mut impl Log) -> Option<Event> {
    match log.poll_event(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(event) => Some(event),
        Poll::Pending => None,
    }
}

fn draft(operations: u32, bytes: &'static str) -> Draft {
    Draft { operations, bytes: Bytes::from(bytes), room: Room::Ordinary, floor: None }
}

#[test]
fn smoke() {
    let dir = tempfile::tempdir().unwrap();
    for turn in 0..3 {
        let mut journal = Journal::open(dir.path(), Options::new(Clock::system())).unwrap();
        while let Some(event) = next(&mut journal) {
            println!("{turn} {event:?}");
        }
        journal.append(0, draft(2, "one")).unwrap();
        journal.append(0, draft(1, "two")).unwrap();
        println!("{:?} {:?}", next(&mut journal), next(&mut journal));
        println!("{:?}", journal.sync());
        if turn == 1 {
            journal.append(0, draft(1, "three")).unwrap();
            let at = journal.sync().unwrap();
            journal.write_chunk(at, Bytes::from("chunk")).unwrap();
            journal.finish_checkpoint(at).unwrap();
            let (floor, which, chunks) = loop {
                match next(&mut journal) {
                    Some(Event::Checkpoint { floor, which, chunks }) => {
                        break (floor, which, chunks);
                    }
                    Some(event) => println!("{event:?}"),
                    None => std::thread::yield_now(),
                }
            };
            let floor = crate::log::Floor { at: floor, which, chunks, ..Default::default() };
            journal.trim(&floor).unwrap();
            println!("{}", journal.bytes_after_floor());
        }
        journal.settle().unwrap();
    }
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        println!("{:?}", entry.unwrap());
    }
}
