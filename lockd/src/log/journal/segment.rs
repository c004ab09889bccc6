//! Segments: what each says of itself, and its frames in order.

use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_128;

use super::{
    folder::{self, Folder},
    frame::{self, Frame, Kind, Seed},
    refusal,
    sector::{self, SECTOR},
};
use crate::{log::LogError, record::Position};

/// Where a segment's first frame begins.
pub(super) const START: u64 = SECTOR as u64;

/// What a seal takes.
pub(super) const SEAL_BYTES: u64 = frame::size(16);

const KIND: [u8; 8] = *b"lockdseg";

/// The restore from a backup that was accepted last; the default if none was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct AcceptedRestore {
    /// A hash of the name by which it was accepted.
    pub(super) name: u128,
    /// Operations after this place came after it.
    pub(super) since: Position,
}

/// What a segment says of itself, in a sector of its own at its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    pub(super) journal: u128,
    /// Random: no other segment has had it.
    pub(super) id: u128,
    /// Its number, which is in its name as well. Numbers only grow.
    pub(super) number: u64,
    /// The size of the file.
    pub(super) bytes: u64,
    /// New operations in it come after this place. Those carried over from before are lower.
    pub(super) base: Position,
    /// Where this header is found, everything up to this place is durable: in the segments before
    /// it, or carried over into it.
    pub(super) durable: Position,
    pub(super) restore: AcceptedRestore,
    /// Where the segment before it ends: what lies behind that is dead, whatever it is.
    pub(super) after: Option<End>,
}

/// A place between two frames of a segment; where it ends, if there are no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct End {
    /// The segment's id.
    pub(super) id: u128,
    pub(super) number: u64,
    /// The end of the frame before it.
    pub(super) offset: u64,
    /// The place of the last operation before it.
    pub(super) last: Position,
    /// The checksum of the frame before it, or of the header.
    pub(super) checksum: u32,
}

/// A segment in memory.
pub(super) struct Contents {
    pub(super) header: Header,
    bytes: Vec<u8>,
}

impl AcceptedRestore {
    pub(super) fn hash(name: &str) -> u128 {
        XxHash3_128::oneshot(name.as_bytes())
    }
}

impl Header {
    /// Its sector.
    pub(super) fn write(&self) -> Vec<u8> {
        sector::seal(KIND, self)
    }

    /// The header of a segment.
    pub(super) fn read(segment: &[u8]) -> Result<Self, &'static str> {
        sector::open(KIND, segment)
    }

    /// The place of the last operation before its own.
    pub(super) fn before(&self) -> Position {
        self.after.map_or(Position(0), |after| after.last)
    }

    /// The place before its first frame.
    pub(super) fn start(&self) -> End {
        let Self { id, number, .. } = *self;
        let checksum = sector::checksum(&self.write());
        End { id, number, offset: START, last: self.before(), checksum }
    }
}

impl Contents {
    /// Reads a segment whose header is good.
    pub(super) fn load(folder: &dyn Folder, number: u64) -> Result<Self, LogError> {
        let name = name(number);
        let bytes = folder::read(folder, &name).map_err(refusal::unusable(folder, &name))?;
        let header = Header::read(&bytes);
        let header = header.map_err(|what| refusal::damaged(folder, &name, 0, what))?;
        Ok(Self { header, bytes })
    }

    /// The next frame, if a good one follows that ends before an offset.
    pub(super) fn next(&self, at: &mut End, limit: u64) -> Option<Frame<'_>> {
        let (frame, checksum) = Frame::read(&self.bytes, at.offset, Seed::of(self.header.id))?;
        let in_order = match frame.kind {
            Kind::Record => frame.at > at.last,
            Kind::Seal => frame.at == at.last,
        };
        let offset = at.offset + frame.bytes();
        if offset > limit || !in_order || frame.previous != at.checksum {
            return None;
        }
        *at = End { offset, last: frame.last(), checksum, ..*at };
        Some(frame)
    }

    /// The frames that verify at an offset or behind it, in whatever order they were written.
    pub(super) fn behind(&self, offset: u64) -> impl Iterator<Item = Frame<'_>> {
        let seed = Seed::of(self.header.id);
        let end = u64::try_from(self.bytes.len()).unwrap_or(u64::MAX);
        let places = (offset.next_multiple_of(frame::ALIGN)..end).step_by(frame::STEP);
        places.filter_map(move |place| Some(Frame::read(&self.bytes, place, seed)?.0))
    }
}

/// The name of a segment's file.
pub(super) fn name(number: u64) -> String {
    format!("segment-{number:016x}")
}

/// The number in a segment's name.
pub(super) fn number(name: &str) -> Option<u64> {
    u64::from_str_radix(name.strip_prefix("segment-")?, 16).ok()
}
