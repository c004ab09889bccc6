//! How a record lies in a segment.
//!
//! The checksum covers the segment's random id and the offset as well as the frame itself, so that
//! bytes of another segment, or of another place, never verify: a segment can lie on the blocks of
//! an older one, and a scan behind a torn place finds only frames that were written there.

use bytes::{Buf as _, BufMut as _};

use crate::{
    log::MAX_RECORD_BYTES,
    record::{Position, ReplicaId},
};

/// What a frame takes besides its payload.
pub(super) const FRAME_BYTES: usize = 40;

/// Frames begin at multiples of this, which a scan makes use of.
pub(super) const ALIGN: u64 = STEP as u64;
pub(super) const STEP: usize = 8;

const CHECKSUM: usize = 4;

/// What is in a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Record,
    /// The segment is over; the payload is the id of the one that follows.
    Seal,
}

/// A frame to write, or as it was read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame<'a> {
    pub(super) kind: Kind,
    /// How many operations there are in it; none in a seal.
    pub(super) operations: u16,
    /// The place of its first operation; in a seal, of the last operation before it.
    pub(super) at: Position,
    /// Up to where everything was known to be durable when it was framed.
    pub(super) synced: Position,
    pub(super) author: ReplicaId,
    /// The checksum of the frame before it, or of the segment's header.
    pub(super) previous: u32,
    pub(super) payload: &'a [u8],
}

/// What checksums of one segment begin with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seed(u32);

impl Seed {
    pub(super) fn of(segment: u128) -> Self {
        Self(crc32c::crc32c(&segment.to_le_bytes()))
    }

    fn checksum(self, offset: u64, covered: &[u8]) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c_append(self.0, &offset.to_le_bytes()), covered)
    }
}

impl Frame<'_> {
    /// The place of its last operation.
    pub(super) fn last(&self) -> Position {
        match self.kind {
            Kind::Record => Position(self.at.0 + u64::from(self.operations.saturating_sub(1))),
            Kind::Seal => self.at,
        }
    }

    /// What it takes in its segment.
    pub(super) fn bytes(&self) -> u64 {
        size(self.payload.len())
    }

    /// Appends it to a buffer that will be written so that the frame is at this offset of its
    /// segment. Returns its checksum.
    pub(super) fn write(&self, buffer: &mut Vec<u8>, seed: Seed, offset: u64) -> u32 {
        let start = buffer.len();
        let length = u32::try_from(self.payload.len()).unwrap_or(u32::MAX);
        buffer.put_u32_le(0);
        buffer.put_u32_le(length);
        buffer.put_u32_le(self.previous);
        buffer.put_u16_le(self.kind.number());
        buffer.put_u16_le(self.operations);
        buffer.put_u64_le(self.at.0);
        buffer.put_u64_le(self.synced.0);
        buffer.put_u64_le(self.author.0);
        buffer.put_slice(self.payload);
        let checksum = seed.checksum(offset, buffer.get(start + CHECKSUM..).unwrap_or_default());
        if let Some(place) = buffer.get_mut(start..start + CHECKSUM) {
            place.copy_from_slice(&checksum.to_le_bytes());
        }
        buffer.resize(buffer.len().next_multiple_of(STEP), 0);
        checksum
    }

    /// The frame at an offset of a segment and its checksum, if one verifies there.
    pub(super) fn read(segment: &[u8], offset: u64, seed: Seed) -> Option<(Frame<'_>, u32)> {
        let whole = segment.get(usize::try_from(offset).ok()?..)?;
        let mut head = whole;
        let checksum = head.try_get_u32_le().ok()?;
        let length = usize::try_from(head.try_get_u32_le().ok()?).ok()?;
        let previous = head.try_get_u32_le().ok()?;
        // Zeros are no frame: most of what a scan looks at ends here.
        let kind = Kind::of(head.try_get_u16_le().ok()?)?;
        let operations = head.try_get_u16_le().ok()?;
        let at = Position(head.try_get_u64_le().ok()?);
        let synced = Position(head.try_get_u64_le().ok()?);
        let author = ReplicaId(head.try_get_u64_le().ok()?);
        let payload = head.get(..length).filter(|_| length <= MAX_RECORD_BYTES)?;
        let covered = whole.get(CHECKSUM..FRAME_BYTES + length)?;
        let frame = Frame { kind, operations, at, synced, author, previous, payload };
        (seed.checksum(offset, covered) == checksum).then_some((frame, checksum))
    }
}

impl Kind {
    fn number(self) -> u16 {
        match self {
            Self::Record => 1,
            Self::Seal => 2,
        }
    }

    fn of(number: u16) -> Option<Self> {
        [Self::Record, Self::Seal].into_iter().find(|kind| kind.number() == number)
    }
}

/// The bytes of a frame with a payload of this size.
pub(super) const fn size(payload: usize) -> u64 {
    (FRAME_BYTES + payload).next_multiple_of(STEP) as u64
}
