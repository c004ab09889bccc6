//! Segments: files that are allocated and zeroed as spares before they take records.

use std::{io, sync::Arc};

use bytes::{Buf as _, BufMut as _};

use super::{
    folder::{File, Folder},
    frame,
    sector::{self, SECTOR},
};
use crate::record::Position;

/// The version of the format of all files of a journal.
pub(super) const FORMAT: u32 = 1;

/// Where a segment's first frame begins.
pub(super) const START: u64 = SECTOR as u64;

/// What a seal takes.
pub(super) const SEAL_BYTES: u64 = frame::size(16) as u64;

/// What is said of a header that is damaged, or was never whole.
pub(super) const UNVERIFIED: &str = "its header does not verify";

const MAGIC: &[u8; 8] = b"lockdseg";

/// A random name that no other segment has had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentId(pub(super) u128);

/// What a segment says of itself, in a sector of its own at its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) journal: u128,
    pub(super) id: SegmentId,
    /// Its number, which is in its name as well. Numbers only grow.
    pub(super) number: u64,
    /// The size of the file.
    pub(super) bytes: u64,
    /// New operations in it come after this place. Those carried over from before are lower.
    pub(super) base: Position,
    /// Where this header is found, everything up to this place is durable: in the segments before
    /// it, or carried over into it.
    pub(super) durable: Position,
    /// Where the segment before it ends: what lies behind that is dead, whatever it is.
    pub(super) after: Option<End>,
}

/// Where a segment ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct End {
    pub(super) id: SegmentId,
    pub(super) number: u64,
    /// The end of its last frame.
    pub(super) offset: u64,
    /// The place of the last operation in it, or before it.
    pub(super) last: Position,
    /// The checksum of its last frame, or of its header.
    pub(super) checksum: u32,
}

impl Header {
    /// Its sector.
    pub(super) fn write(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(SECTOR);
        body.put_slice(MAGIC);
        body.put_u32_le(FORMAT);
        body.put_u128_le(self.journal);
        body.put_u128_le(self.id.0);
        body.put_u64_le(self.number);
        body.put_u64_le(self.bytes);
        body.put_u64_le(self.base.0);
        body.put_u64_le(self.durable.0);
        body.put_u8(u8::from(self.after.is_some()));
        if let Some(after) = &self.after {
            body.put_u128_le(after.id.0);
            body.put_u64_le(after.number);
            body.put_u64_le(after.offset);
            body.put_u64_le(after.last.0);
            body.put_u32_le(after.checksum);
        }
        sector::seal(body)
    }

    /// The checksum of its sector.
    pub(super) fn checksum(&self) -> u32 {
        sector::open(&self.write()).map_or(0, |(_, checksum)| checksum)
    }

    /// The header of a segment and its checksum.
    pub(super) fn read(segment: &[u8]) -> Result<(Self, u32), &'static str> {
        let (body, checksum) = sector::open(segment).ok_or(UNVERIFIED)?;
        let body = body.strip_prefix(MAGIC).ok_or("it is no segment of a journal")?;
        let mut rest = body;
        if rest.try_get_u32_le() != Ok(FORMAT) {
            return Err("its format is not known to this lockd");
        }
        Self::fields(rest).map(|header| (header, checksum)).ok_or("its header is too short")
    }

    fn fields(mut body: &[u8]) -> Option<Self> {
        Some(Self {
            journal: body.try_get_u128_le().ok()?,
            id: SegmentId(body.try_get_u128_le().ok()?),
            number: body.try_get_u64_le().ok()?,
            bytes: body.try_get_u64_le().ok()?,
            base: Position(body.try_get_u64_le().ok()?),
            durable: Position(body.try_get_u64_le().ok()?),
            after: match body.try_get_u8().ok()? {
                0 => None,
                _ => Some(End {
                    id: SegmentId(body.try_get_u128_le().ok()?),
                    number: body.try_get_u64_le().ok()?,
                    offset: body.try_get_u64_le().ok()?,
                    last: Position(body.try_get_u64_le().ok()?),
                    checksum: body.try_get_u32_le().ok()?,
                }),
            },
        })
    }

    /// The place of the last operation before its own.
    pub(super) fn before(&self) -> Position {
        self.after.map_or(Position(0), |after| after.last)
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

/// Makes a segment of a spare, with what is carried over into it. It is durable, name and all, when
/// this returns, and until then it is still a spare (J11).
pub(super) fn create(
    folder: &dyn Folder,
    spare: &str,
    header: &Header,
    carried: &[u8],
) -> io::Result<Arc<dyn File>> {
    let file = folder.open(spare)?;
    file.write_at(&header.write(), 0)?;
    if !carried.is_empty() {
        file.write_at(carried, START)?;
    }
    file.sync()?;
    folder.rename(spare, &name(header.number))?;
    folder.sync()?;
    Ok(file)
}
