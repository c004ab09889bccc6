//! The segment that is written to: records are framed into a buffer, which goes to the disk with
//! one write and one sync.

use std::{io, sync::Arc};

use super::{
    folder::{File, Folder},
    frame::{self, Frame, Kind, Seed},
    mark::{self, Mark, Marked},
    refusal,
    segment::{self, End, Header, SEAL_BYTES},
    survey::Carried,
};
use crate::{
    log::{LogError, MAX_RECORD_BYTES},
    record::{Position, ReplicaId},
};

/// How many operations may be appended and not durable: an opening continues beyond as many (J4b).
pub(super) const MAX_UNSYNCED: u64 = 1 << 16;

/// How many bytes may be.
const MAX_BUFFER: usize = 1024 * 1024;

/// A segment that is open.
pub(super) struct OpenSegment {
    pub(super) header: Header,
    file: Arc<dyn File>,
    seed: Seed,
    buffer: Vec<u8>,
    /// Where the buffer belongs.
    written: u64,
    /// The end of what was framed. Its last place is lower than the writer's as long as there is nothing
    /// but what was carried over.
    pub(super) end: End,
}

impl OpenSegment {
    /// Makes a segment of a spare, or of one without records, with what is carried over into it. It is
    /// durable, name and all, when this returns, and until then it is still a spare (J11).
    pub(super) fn make(
        folder: &dyn Folder,
        from: &str,
        header: Header,
        carried: &[Carried],
    ) -> io::Result<Self> {
        let file = folder.open(from)?;
        file.write_at(&header.write(), 0)?;
        let (seed, buffer, end) = (Seed::of(header.id), Vec::new(), header.start());
        let mut open = Self { header, file, seed, buffer, written: end.offset, end };
        for record in carried {
            open.push(Frame {
                kind: Kind::Record,
                operations: record.operations,
                at: record.at,
                synced: header.before(),
                author: record.author,
                previous: 0,
                payload: &record.bytes,
            });
        }
        open.flush()?;
        folder.rename(from, &segment::name(header.number))?;
        folder.sync()?;
        Ok(open)
    }

    /// Adds a frame behind the last one.
    fn push(&mut self, frame: Frame<'_>) {
        let frame = Frame { previous: self.end.checksum, ..frame };
        self.end.checksum = frame.write(&mut self.buffer, self.seed, self.end.offset);
        self.end.offset += frame.bytes();
        self.end.last = frame.last();
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            self.file.write_at(&self.buffer, self.written)?;
        }
        self.file.sync()?;
        self.written = self.end.offset;
        self.buffer.clear();
        Ok(())
    }
}

/// Writes records.
pub(super) struct Writer {
    folder: Arc<dyn Folder>,
    mark: Mark,
    open: OpenSegment,
    /// The place of the last operation that was appended.
    pub(super) last: Position,
    pub(super) durable: Position,
}

impl Writer {
    pub(super) fn new(folder: Arc<dyn Folder>, mark: Mark, open: OpenSegment) -> Self {
        let last = open.header.base;
        Self { folder, mark, open, last, durable: last }
    }

    /// The header of the open segment.
    pub(super) fn header(&self) -> &Header {
        &self.open.header
    }

    /// Whether all that was appended is durable.
    pub(super) fn is_synced(&self) -> bool {
        self.open.buffer.is_empty()
    }

    /// Whether a record of this size has to go into another segment.
    pub(super) fn is_over(&self, payload: usize) -> bool {
        self.open.end.offset + frame::size(payload) + SEAL_BYTES > self.open.header.bytes
    }

    /// Whether more may be appended before the next sync.
    pub(super) fn is_due(&self) -> bool {
        self.last.0 - self.durable.0 >= MAX_UNSYNCED || self.open.buffer.len() >= MAX_BUFFER
    }

    /// Frames a record and gives it its place.
    pub(super) fn append(
        &mut self,
        author: ReplicaId,
        operations: u16,
        payload: &[u8],
    ) -> Position {
        let (kind, at, synced) = (Kind::Record, self.last.after(1), self.durable);
        self.open.push(Frame { kind, operations, at, synced, author, previous: 0, payload });
        self.last = self.open.end.last;
        at
    }

    /// Makes durable what was appended, and then marks it.
    pub(super) fn sync(&mut self) -> Result<Position, LogError> {
        if self.is_synced() {
            return Ok(self.durable);
        }
        let name = segment::name(self.open.header.number);
        let flushed = self.open.flush().and_then(|()| self.open.file.identity());
        if flushed.map_err(refusal::failed(&*self.folder, &name))?.is_none() {
            // Files that were unlinked sync well (J15).
            return Err(refusal::gone(&*self.folder, &name));
        }
        self.durable = self.last;
        self.set_mark()?;
        Ok(self.durable)
    }

    /// Makes the mark durable as well.
    pub(super) fn sync_mark(&mut self) -> Result<(), LogError> {
        self.mark.sync().map_err(refusal::failed(&*self.folder, mark::NAME))
    }

    /// Goes on in a segment that is made of a spare. The successor is durable before the seal that
    /// names it, and the seal before anything in the successor is acknowledged (J11).
    pub(super) fn enter(&mut self, spare: &str, bytes: u64) -> Result<(), LogError> {
        let end = self.open.end;
        let next = random().and_then(|id| {
            let header = Header {
                id: u128::from_le_bytes(id),
                number: end.number + 1,
                bytes,
                base: self.last,
                // Less than that as long as there is nothing but what was carried over.
                durable: self.durable.min(end.last),
                after: Some(end),
                ..self.open.header
            };
            OpenSegment::make(&*self.folder, spare, header, &[])
        });
        let next = next.map_err(refusal::failed(&*self.folder, spare))?;
        self.open.push(Frame {
            kind: Kind::Seal,
            operations: 0,
            at: end.last,
            synced: self.durable,
            author: ReplicaId(0),
            previous: 0,
            payload: &next.header.id.to_le_bytes(),
        });
        self.sync()?;
        self.open = next;
        self.set_mark()
    }

    /// Checks that what is written is where it can be found again (J15).
    pub(super) fn check_place(&self) -> Result<(), LogError> {
        let name = segment::name(self.open.header.number);
        if self.folder.is_in_place(&name, &*self.open.file) {
            return Ok(());
        }
        Err(refusal::gone(&*self.folder, &name))
    }

    fn set_mark(&mut self) -> Result<(), LogError> {
        let (segment, position) = (self.open.header.number, self.durable);
        let marked = self.mark.write(Marked { segment, position, ..self.mark.said() });
        marked.map_err(refusal::failed(&*self.folder, mark::NAME))
    }
}

/// Whether a record of this size has room in an empty segment.
pub(super) fn fits(payload: usize, segment_bytes: u64) -> bool {
    let needed = segment::START + frame::size(payload) + SEAL_BYTES;
    payload <= MAX_RECORD_BYTES && needed <= segment_bytes
}

/// The least size of a segment that records are carried over into.
pub(super) fn needed(carried: &[Carried]) -> u64 {
    let frames: u64 = carried.iter().map(|record| frame::size(record.bytes.len())).sum();
    segment::START + frames + SEAL_BYTES
}

/// Random bytes, for names that were never used.
pub(super) fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes)
}
