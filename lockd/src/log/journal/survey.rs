//! What an opening finds: every segment is read and verified, and a torn end is distinguished from
//! damage.
//!
//! `E` is the last good place before the first bad frame. Records behind it were acknowledged, and
//! lost to damage, if the mark says so, or if a later frame verifies and says that more than `E` was
//! durable when it was framed. Otherwise what is behind `E` was never acknowledged, and is cut.
//! Segments before the last have a known end, which has to be reached.

use bytes::Bytes;

use super::{
    chain,
    floor::Kept,
    folder::Folder,
    frame::{Frame, Kind},
    mark::Marked,
    read::Contents,
    refusal,
    segment::{self, End, Header},
};
use crate::{
    log::LogError,
    record::{Position, ReplicaId},
};

/// What part of a segment is carried over whole.
const LITTLE: u64 = 4;

/// What is in a folder.
#[derive(Default)]
pub(super) struct Survey {
    /// The segments, oldest first, and where each of them ends.
    pub(super) links: Vec<Link>,
    /// The newest segment, if there are no records in it: it can be used again.
    pub(super) empty: Option<Header>,
    /// Segments that are not needed.
    pub(super) dead: Vec<u64>,
    /// Where what is kept of the segments ends.
    pub(super) after: Option<End>,
    /// Records behind that, to be written again. They may not be durable, though they can be read: a
    /// failed sync leaves them in the cache (J12).
    pub(super) carried: Vec<Carried>,
    /// The segment that is needed no more once they are: all that was in it is carried over.
    pub(super) replaced: Option<u64>,
    /// No place greater than this was in use.
    pub(super) highest: Position,
    /// The greatest number of a segment.
    pub(super) newest: u64,
}

/// A segment that belongs to the journal, and where it ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Link {
    pub(super) header: Header,
    pub(super) end: End,
}

/// A record to write again.
#[derive(Debug, Clone)]
pub(super) struct Carried {
    pub(super) operations: u16,
    pub(super) at: Position,
    pub(super) author: ReplicaId,
    pub(super) bytes: Bytes,
}

/// Where the frames of the last segment end.
struct Tail {
    /// The place of the last good operation.
    last: Position,
    /// Up to where frames say that all is durable.
    proven: Position,
}

/// Reads everything.
pub(super) fn survey(
    folder: &dyn Folder,
    marked: Marked,
    floor: Option<Kept>,
) -> Result<Survey, LogError> {
    let mut chain = chain::find(folder, marked, floor)?;
    let bases = chain.headers.iter().map(|header| header.base);
    let highest = bases.chain([marked.position]).max().unwrap_or_default();
    let all = chain.headers.iter().map(|header| header.number).chain(chain.dead.iter().copied());
    let newest = all.max().unwrap_or_default();
    let mut found = Survey { highest, newest, ..Survey::default() };
    if let Some(last) = chain.headers.last()
        && is_empty(folder, last)?
    {
        found.empty = chain.headers.pop();
    }
    let last = chain.headers.pop();
    found.dead = chain.dead;
    let next = chain.headers.iter().skip(1).chain(&last).filter_map(|header| header.after);
    for (header, end) in chain.headers.iter().zip(next) {
        verify(folder, header, &end)?;
        found.links.push(Link { header: *header, end });
    }
    match (last, found.empty) {
        (Some(last), _) => found.read_last(folder, marked, last.number)?,
        (None, Some(empty)) => {
            acknowledged(folder, marked, &empty)?;
            found.after = empty.after;
        }
        (None, None) => {}
    }
    let reached = found.highest;
    if let Some(kept) = floor.filter(|kept| kept.floor.at > reached) {
        let what = format!("the floor is at {}, and it ends before", kept.floor.at);
        return Err(refusal::damaged(folder, &segment::name(newest), 0, &what));
    }
    Ok(found)
}

impl Survey {
    /// Reads the last segment with records in it, which may be torn.
    fn read_last(
        &mut self,
        folder: &dyn Folder,
        marked: Marked,
        number: u64,
    ) -> Result<(), LogError> {
        let name = segment::name(number);
        let contents = Contents::load(folder, number)?;
        let end = self.empty.and_then(|empty| empty.after);
        let limit = end.map_or(contents.header.bytes, |end| end.offset);
        let mut cursor = contents.start();
        let mut tail = Tail { last: contents.header.before(), proven: contents.header.durable };
        while let Some(frame) = contents.next(&mut cursor, limit) {
            if frame.kind == Kind::Seal {
                let next = segment::name(number + 1);
                let what = format!("\"{name}\" is sealed and names the one after it");
                return Err(refusal::missing(folder, &next, &what));
            }
            tail.last = frame.last();
            tail.proven = tail.proven.max(frame.synced);
        }
        let reached = contents.end(&cursor);
        let is_whole = end.is_some_and(|end| end == reached);
        self.judge(folder, marked, &contents, (&tail, is_whole, reached.offset))?;
        let empty = self.empty.map_or(Position(0), |empty| empty.durable);
        let proven = tail.proven.max(marked.position).max(empty);
        self.divide(&contents, proven, reached.offset);
        self.highest = self.highest.max(tail.last);
        Ok(())
    }

    /// Whether the end of the last segment is one that a crash can have left.
    fn judge(
        &self,
        folder: &dyn Folder,
        marked: Marked,
        contents: &Contents,
        (tail, is_whole, bad): (&Tail, bool, u64),
    ) -> Result<(), LogError> {
        let header = &contents.header;
        let damaged =
            |what: String| Err(refusal::damaged(folder, &segment::name(header.number), bad, &what));
        if tail.last < header.durable {
            return damaged(format!("records up to {} were durable", header.durable));
        }
        let good = tail.last.max(header.base);
        if let Some(empty) = self.empty {
            if is_whole {
                return acknowledged(folder, marked, &empty);
            } else if empty.durable > good {
                return damaged(format!("records up to {} were durable", empty.durable));
            }
        }
        if marked.position > good {
            return damaged(format!("records up to {} were acknowledged", marked.position));
        }
        let later = contents.behind(bad).find(|frame| !is_whole && frame.synced > good);
        if let Some(Frame { at, synced, .. }) = later {
            return damaged(format!("a later record, {at}, says that {synced} was durable"));
        }
        Ok(())
    }

    /// Divides what can be read of the last segment into what is known to be durable, and what is
    /// to be written again. That is all of it where it is little, so that daemons that start and
    /// die, over and over, do not take a segment each (J14).
    fn divide(&mut self, contents: &Contents, proven: Position, end: u64) {
        let is_little = self.empty.is_none() && end <= contents.header.bytes / LITTLE;
        let mut cursor = contents.start();
        let mut kept = contents.end(&cursor);
        while let Some(frame) = contents.next(&mut cursor, end) {
            if frame.last() <= proven && !is_little {
                kept = contents.end(&cursor);
                continue;
            }
            self.carried.push(Carried {
                operations: frame.operations,
                at: frame.at,
                author: frame.author,
                bytes: Bytes::copy_from_slice(frame.payload),
            });
        }
        if is_little {
            (self.after, self.replaced) = (contents.header.after, Some(contents.header.number));
        } else {
            self.after = Some(kept);
            self.links.push(Link { header: contents.header, end: kept });
        }
    }
}

/// Whether nothing that was acknowledged can have been in a segment without records.
fn acknowledged(folder: &dyn Folder, marked: Marked, empty: &Header) -> Result<(), LogError> {
    let good = empty.before().max(empty.base);
    if marked.position <= good {
        return Ok(());
    }
    let what = format!("records up to {} were acknowledged", marked.position);
    Err(refusal::damaged(folder, &segment::name(empty.number), segment::START, &what))
}

/// Whether a segment holds no record at all, whole or torn.
fn is_empty(folder: &dyn Folder, header: &Header) -> Result<bool, LogError> {
    let contents = Contents::load(folder, header.number)?;
    Ok(contents.behind(segment::START).next().is_none())
}

/// Reads a segment whose end is known.
fn verify(folder: &dyn Folder, header: &Header, end: &End) -> Result<(), LogError> {
    let contents = Contents::load(folder, header.number)?;
    let mut cursor = contents.start();
    while contents.next(&mut cursor, end.offset).is_some() {}
    let reached = contents.end(&cursor);
    if reached == *end {
        return Ok(());
    }
    let what = format!("records up to {} were durable", end.last);
    Err(refusal::damaged(folder, &segment::name(header.number), reached.offset, &what))
}
