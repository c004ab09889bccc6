//! The segment that is written to: records are framed into a buffer, which goes to the disk with
//! one write and one sync.

use std::{io, sync::Arc};

use super::{
    folder::{File, Folder},
    frame::{self, Frame, Kind, Seed},
    mark::{Mark, Marked},
    refusal,
    segment::{self, End, Header, SEAL_BYTES, SegmentId},
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
    pub(super) file: Arc<dyn File>,
    pub(super) header: Header,
    pub(super) seed: Seed,
    /// Where the buffer belongs.
    pub(super) written: u64,
    /// The last place in a frame of it, or before it: lower than the writer's as long as it has
    /// nothing but what was carried over.
    last: Position,
    /// The checksum of the last frame, or of the header.
    checksum: u32,
}

impl SegmentId {
    /// Half of it, where that is random enough.
    pub(super) fn half(self) -> u64 {
        u64::try_from(self.0 >> 64).unwrap_or_default()
    }
}

impl OpenSegment {
    /// A segment without records.
    pub(super) fn new(file: Arc<dyn File>, header: Header) -> Self {
        let (seed, checksum) = (Seed::of(header.id), header.checksum());
        Self { file, header, seed, written: segment::START, last: header.before(), checksum }
    }

    /// Where it ends if nothing is added.
    pub(super) fn end(&self) -> End {
        let Header { id, number, .. } = self.header;
        End { id, number, offset: self.written, last: self.last, checksum: self.checksum }
    }
}

/// Writes records.
pub(super) struct Writer {
    folder: Arc<dyn Folder>,
    mark: Mark,
    open: OpenSegment,
    buffer: Vec<u8>,
    /// The place of the last operation that was appended.
    last: Position,
    durable: Position,
}

impl Writer {
    pub(super) fn new(
        folder: Arc<dyn Folder>,
        mark: Mark,
        open: OpenSegment,
        last: Position,
    ) -> Self {
        Self { folder, mark, open, buffer: Vec::new(), last, durable: last }
    }

    pub(super) fn last(&self) -> Position {
        self.last
    }

    pub(super) fn durable(&self) -> Position {
        self.durable
    }

    /// Whether all that was appended is durable.
    pub(super) fn is_synced(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Whether a record of this size has to go into another segment.
    pub(super) fn is_over(&self, payload: usize) -> bool {
        let needed = bytes(frame::size(payload)) + SEAL_BYTES;
        self.end() + needed > self.open.header.bytes
    }

    /// Whether a record of this size has room in an empty segment.
    pub(super) fn fits(&self, payload: usize, segment_bytes: u64) -> bool {
        let needed = segment::START + bytes(frame::size(payload)) + SEAL_BYTES;
        payload <= MAX_RECORD_BYTES && needed <= segment_bytes
    }

    /// The open segment as one that is closed: number, last place, size.
    pub(super) fn closes(&self) -> (u64, Position, u64) {
        (self.open.header.number, self.last, self.open.header.bytes)
    }

    /// Whether more may be appended before the next sync.
    pub(super) fn is_due(&self) -> bool {
        self.last.0 - self.durable.0 >= MAX_UNSYNCED || self.buffer.len() >= MAX_BUFFER
    }

    /// Frames a record and gives it its place.
    pub(super) fn append(
        &mut self,
        author: ReplicaId,
        operations: u16,
        payload: &[u8],
    ) -> Position {
        let at = self.last.after(1);
        let (previous, synced, offset) = (self.open.checksum, self.durable, self.end());
        let frame = Frame { kind: Kind::Record, operations, at, synced, author, previous, payload };
        self.open.checksum = frame.write(&mut self.buffer, self.open.seed, offset);
        self.last = frame.last();
        self.open.last = self.last;
        at
    }

    /// Makes durable what was appended, and then marks it.
    pub(super) fn sync(&mut self) -> Result<Position, LogError> {
        if self.buffer.is_empty() {
            return Ok(self.durable);
        }
        let name = segment::name(self.open.header.number);
        let written =
            self.flush().map_err(|error| refusal::failed(&*self.folder, &name, &error))?;
        if !written {
            // Files that were unlinked sync well (J15).
            return Err(refusal::gone(&*self.folder, &name));
        }
        self.durable = self.last;
        self.set_mark()?;
        Ok(self.durable)
    }

    /// Makes the mark durable as well.
    pub(super) fn sync_mark(&mut self) -> Result<(), LogError> {
        let synced = self.mark.sync();
        synced.map_err(|error| refusal::failed(&*self.folder, super::mark::NAME, &error))
    }

    /// Goes on in a segment that is made of a spare. The successor is durable before the seal that
    /// names it, and the seal before anything in the successor is acknowledged (J11).
    pub(super) fn enter(&mut self, spare: &str, bytes: u64) -> Result<(), LogError> {
        let folder = self.folder.clone();
        let old = segment::name(self.open.header.number);
        let id = random_id().map_err(|error| refusal::failed(&*folder, &old, &error))?;
        let header = Header {
            id,
            number: self.open.header.number + 1,
            bytes,
            base: self.last,
            // Less than that as long as there is nothing but what was carried over.
            durable: self.durable.min(self.open.last),
            after: Some(End { offset: self.end(), ..self.open.end() }),
            ..self.open.header
        };
        let next = open(&*folder, spare, header, &[])
            .map_err(|error| refusal::failed(&*folder, spare, &error))?;
        self.seal(id);
        self.sync()?;
        self.open = next;
        self.set_mark()
    }

    /// Whether the folder and the open segment are still where they were.
    pub(super) fn is_in_place(&self) -> bool {
        let name = segment::name(self.open.header.number);
        self.folder.is_in_place() && self.folder.holds(&name, &*self.open.file)
    }

    /// The number of the open segment.
    pub(super) fn number(&self) -> u64 {
        self.open.header.number
    }

    fn seal(&mut self, next: SegmentId) {
        let payload = &next.0.to_le_bytes();
        let (previous, synced, at, offset) =
            (self.open.checksum, self.durable, self.open.last, self.end());
        let (kind, author, operations) = (Kind::Seal, ReplicaId(0), 0);
        let frame = Frame { kind, operations, at, synced, author, previous, payload };
        self.open.checksum = frame.write(&mut self.buffer, self.open.seed, offset);
    }

    /// Writes and syncs the buffer. False if the segment has no name any more.
    fn flush(&mut self) -> io::Result<bool> {
        self.open.file.write_at(&self.buffer, self.open.written)?;
        self.open.file.sync()?;
        self.open.written = self.end();
        self.buffer.clear();
        Ok(self.open.file.identity()?.is_some())
    }

    fn set_mark(&mut self) -> Result<(), LogError> {
        let (segment, position) = (self.open.header.number, self.durable);
        let marked = self.mark.write(Marked { segment, position, ..self.mark.said() });
        marked.map_err(|error| refusal::failed(&*self.folder, super::mark::NAME, &error))
    }

    /// Where the next frame begins.
    fn end(&self) -> u64 {
        self.open.written + bytes(self.buffer.len())
    }
}

/// Makes a segment of a spare, with records that are carried over into it.
pub(super) fn open(
    folder: &dyn Folder,
    spare: &str,
    header: Header,
    carried: &[Carried],
) -> io::Result<OpenSegment> {
    let seed = Seed::of(header.id);
    let (mut buffer, mut checksum) = (Vec::new(), header.checksum());
    for record in carried {
        let frame = Frame {
            kind: Kind::Record,
            operations: record.operations,
            at: record.at,
            synced: header.before(),
            author: record.author,
            previous: checksum,
            payload: &record.bytes,
        };
        let offset = segment::START + bytes(buffer.len());
        checksum = frame.write(&mut buffer, seed, offset);
    }
    let file = segment::create(folder, spare, &header, &buffer)?;
    let (written, last) = (segment::START + bytes(buffer.len()), last(carried));
    Ok(OpenSegment { file, header, seed, written, last: last.unwrap_or(header.before()), checksum })
}

/// The last place in records that are carried over.
pub(super) fn last(carried: &[Carried]) -> Option<Position> {
    carried.last().map(|it| Position(it.at.0 + u64::from(it.operations.saturating_sub(1))))
}

/// The least size of a segment that records are carried over into.
pub(super) fn needed(carried: &[Carried]) -> u64 {
    let frames = carried.iter().map(|record| bytes(frame::size(record.bytes.len())));
    segment::START + frames.sum::<u64>() + SEAL_BYTES
}

/// A name that no segment has had.
pub(super) fn random_id() -> io::Result<SegmentId> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(io::Error::other)?;
    Ok(SegmentId(u128::from_le_bytes(id)))
}

fn bytes(length: usize) -> u64 {
    length.try_into().unwrap_or(u64::MAX)
}
