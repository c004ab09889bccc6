//! What is not understood whole is refused whole.

use lockd_proto::{LockName, Namespace, RequestId, SessionId};
use proptest::prelude::*;

use super::*;
use crate::record::{Attach, Enqueue, Info, LockId, Mode, Wait};

fn enqueue() -> Operation {
    let name = LockName::parse("x").expect("a valid name");
    Operation::Enqueue(Box::new(Enqueue {
        session: SessionId::from_bytes([1; 16]),
        stream: 1,
        request: RequestId::from_bytes([2; 16]),
        locks: vec![LockId::new(&Namespace::default(), &name)],
        mode: Mode::Permits { count: 1, capacity: 2 },
        wait: Wait::Within(300),
        lock_delay_ms: 70_000,
        info: Info { owner: "o".into(), ..Info::default() },
    }))
}

fn record() -> Record {
    let attach = Attach { session: SessionId::from_bytes([1; 16]), stream: 2, open: None };
    let operations = vec![Operation::Start, Operation::Attach(attach), enqueue()];
    Record { digest: Some((Position(7), 1 << 100)), operations }
}

fn malformed(bytes: &[u8]) -> bool {
    matches!(Record::decode(bytes), Err(RecordError::Malformed(_)))
}

#[test]
fn a_record_is_read_as_it_was_written() {
    for record in [record(), Record::default()] {
        let bytes = record.encode().expect("a record");
        assert_eq!(Record::decode(&bytes), Ok(record));
    }
}

/// RULES J18: a newer record, or one of no level, is refused before anything of it is applied.
#[test]
fn a_record_of_another_level_is_refused() {
    let mut bytes = record().encode().expect("a record");
    bytes[0] = 2;
    assert_eq!(Record::decode(&bytes), Err(RecordError::Newer { found: 2 }));
    bytes[0] = 0;
    assert!(malformed(&bytes));
    // What follows a newer level is none of our business.
    assert_eq!(Record::decode(&[9, 0, 0, 0, 255, 255]), Err(RecordError::Newer { found: 9 }));
}

/// RULES J19: a version stops at a level that it does not know, whatever the record is of.
#[test]
fn a_raise_to_a_level_that_is_not_known_is_refused() {
    let raise = |level| {
        let operations = vec![enqueue(), Operation::Level(level)];
        Record::decode(&Record { digest: None, operations }.encode().expect("a record"))
    };
    assert!(raise(LEVEL).is_ok());
    assert_eq!(raise(LEVEL + 1), Err(RecordError::Newer { found: LEVEL + 1 }));
}

/// RULES J18: an unknown operation or value is refused, and so is everything beside it.
#[test]
fn what_is_not_known_is_refused() {
    // One operation, of the next number after the last one.
    let level = LEVEL.to_le_bytes();
    let last =
        postcard::to_allocvec(&Operation::Floor(Default::default())).expect("an operation")[0];
    let known = [&level[..], &[0, 2, 0, 0]].concat();
    assert_eq!(Record::decode(&known).map(|it| it.operations.len()), Ok(2));
    assert!(malformed(&[&level[..], &[0, 2, 0, last + 1]].concat()), "an operation");
    let bytes = record().encode().expect("a record");
    let mode = bytes.windows(3).position(|it| it == [2, 1, 2]).expect("permits");
    assert!(malformed(&[&bytes[..mode], &[6], &bytes[mode + 1..]].concat()), "a mode");
}

/// RULES J18: a field more or less is refused.
#[test]
fn bytes_that_are_left_over_or_missing_are_refused() {
    let bytes = record().encode().expect("a record");
    assert!(malformed(&[&bytes[..], &[0]].concat()));
    for len in 0..bytes.len() {
        assert!(malformed(&bytes[..len]), "{len} bytes");
    }
}

proptest! {
    #[test]
    fn no_bytes_do_any_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let level = LEVEL.to_le_bytes().to_vec();
        for bytes in [bytes.clone(), [level, bytes].concat()] {
            drop(Record::decode(&bytes));
        }
    }

    #[test]
    fn a_bit_that_has_flipped_makes_another_record_or_none(at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let mut bytes = record().encode().expect("a record");
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert_ne!(Record::decode(&bytes), Ok(record()));
    }
}
