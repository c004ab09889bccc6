//! Reads one segment: its frames in order, and what verifies behind the first that does not.

use super::{
    folder::{self, Folder},
    frame::{self, Frame, Kind, Read, Seed},
    refusal,
    sector::SECTOR,
    segment::{self, End, Header},
};
use crate::{log::LogError, record::Position};

/// A segment in memory.
pub(super) struct Contents {
    pub(super) header: Header,
    checksum: u32,
    bytes: Vec<u8>,
}

/// A place between two frames.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor {
    offset: usize,
    pub(super) last: Position,
    /// The checksum of the frame before it, or of the header.
    previous: u32,
}

impl Contents {
    /// Reads a segment whose header is good.
    pub(super) fn load(folder: &dyn Folder, number: u64) -> Result<Self, LogError> {
        let name = segment::name(number);
        let bytes = folder::read(folder, &name);
        let bytes = bytes.map_err(|error| refusal::unusable(folder, &name, &error))?;
        let read = Header::read(&bytes);
        let (header, checksum) = read.map_err(|what| refusal::damaged(folder, &name, 0, what))?;
        Ok(Self { header, checksum, bytes })
    }

    /// The place before its first frame.
    pub(super) fn start(&self) -> Cursor {
        Cursor { offset: SECTOR, last: self.header.before(), previous: self.checksum }
    }

    /// The next frame, if a good one follows that ends before an offset.
    pub(super) fn next(&self, cursor: &mut Cursor, limit: u64) -> Option<Frame<'_>> {
        let seed = Seed::of(self.header.id);
        let Read { frame, checksum, end } = Frame::read(&self.bytes, cursor.offset, seed)?;
        let in_order = match frame.kind {
            Kind::Record => frame.at > cursor.last,
            Kind::Seal => frame.at == cursor.last,
        };
        let fits = u64::try_from(end).is_ok_and(|end| end <= limit);
        if !fits || !in_order || frame.previous != cursor.previous {
            return None;
        }
        *cursor = Cursor { offset: end, last: frame.last(), previous: checksum };
        Some(frame)
    }

    /// The end of the segment if there are no more frames.
    pub(super) fn end(&self, cursor: &Cursor) -> End {
        End {
            id: self.header.id,
            number: self.header.number,
            offset: cursor.offset.try_into().unwrap_or(u64::MAX),
            last: cursor.last,
            checksum: cursor.previous,
        }
    }

    /// The frames that verify at an offset or behind it, in whatever order they were written.
    pub(super) fn behind(&self, offset: u64) -> impl Iterator<Item = Frame<'_>> {
        let seed = Seed::of(self.header.id);
        let from = usize::try_from(offset).unwrap_or(usize::MAX).next_multiple_of(frame::ALIGN);
        let places = (from..self.bytes.len()).step_by(frame::ALIGN);
        places.filter_map(move |place| Frame::read(&self.bytes, place, seed)).map(|read| read.frame)
    }
}
