//! Frames, by themselves.

use proptest::prelude::*;

use super::super::frame::{self, Frame, Kind, Seed};
use crate::record::{Position, ReplicaId};

proptest! {
    #[test]
    fn a_frame_reads_as_it_was_written_and_no_changed_byte_does(
        payload in proptest::collection::vec(any::<u8>(), 0..300),
        (operations, at, synced) in (1_u16..1024, 1..u64::MAX / 2, any::<u64>()),
        (place, change, offset) in (any::<prop::sample::Index>(), 1_u8.., 0_u64..1 << 20),
    ) {
        let seed = Seed::of(7);
        let offset = usize::try_from(offset * frame::ALIGN).unwrap();
        let (at, synced) = (Position(at), Position(synced));
        let (kind, author, previous) = (Kind::Record, ReplicaId(3), 5);
        let written = Frame { kind, operations, at, synced, author, previous, payload: &payload };
        let mut segment = vec![0; offset];
        let checksum = written.write(&mut segment, seed, u64::try_from(offset).unwrap());
        let offset = u64::try_from(offset).unwrap();
        prop_assert_eq!(u64::try_from(segment.len()).unwrap(), offset + written.bytes());
        let (read, sum) = Frame::read(&segment, offset, seed).unwrap();
        prop_assert_eq!((sum, read.payload), (checksum, &*payload));
        prop_assert_eq!(
            (read.operations, read.at, read.synced, read.previous),
            (operations, at, synced, previous)
        );
        let used = frame::FRAME_BYTES + payload.len();
        segment[usize::try_from(offset).unwrap() + place.index(used)] ^= change;
        prop_assert!(Frame::read(&segment, offset, seed).is_none());
    }
}
