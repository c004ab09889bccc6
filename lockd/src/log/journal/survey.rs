//! What an opening finds: which segments belong together, and where the last one ends.
//!
//! Each header names the segment before it and where that ends, so that every end but the last is
//! known, and has to be reached. In the last segment a torn end is distinguished from damage. `E` is
//! the last good place before its first bad frame. Records behind it were acknowledged, and lost to
//! damage, if the mark says so, or if a later frame verifies and says that more than `E` was durable
//! when it was framed. Otherwise what is behind `E` was never acknowledged, and is cut.

use std::io;

use bytes::Bytes;

use super::{
    floor::Kept,
    folder::Folder,
    frame::Kind,
    mark::Marked,
    refusal,
    sector::{SECTOR, UNVERIFIED},
    segment::{self, AcceptedRestore, Contents, End, Header},
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
    /// What the newest segment says of it.
    pub(super) restore: AcceptedRestore,
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

/// Finds the segments, and reads the last.
pub(super) fn survey(
    folder: &dyn Folder,
    marked: Marked,
    floor: Option<Kept>,
) -> Result<Survey, LogError> {
    let first = floor.map_or(0, |kept| kept.first);
    let listed = folder.list().map_err(refusal::unusable(folder, ""))?;
    let numbers: Vec<_> = listed.iter().filter_map(|name| segment::number(name)).collect();
    let newest_below = |end| numbers.iter().copied().filter(|it| (first..end).contains(it)).max();
    let mut newest = newest_below(u64::MAX).unwrap_or_default();
    if newest > marked.segment && matches!(header(folder, newest, marked), Ok(Err(UNVERIFIED))) {
        // It was being made. If the one before it is sealed, that is found when it is read.
        newest = newest_below(newest).unwrap_or_default();
    }
    if newest < marked.segment || (newest == 0 && floor.is_some()) {
        let name = segment::name(marked.segment.max(first));
        let what = "\"mark\" or \"floor\" says that it is there";
        return Err(refusal::missing(folder, &name, what));
    }
    let mut chain = walk(folder, marked, (newest, first))?;
    let highest = chain.iter().map(|header| header.base).chain([marked.position]).max();
    let is_needed = |number: &u64| chain.iter().any(|it| it.number == *number);
    let mut found = Survey {
        restore: chain.last().map(|header| header.restore).unwrap_or_default(),
        highest: highest.unwrap_or_default(),
        newest: numbers.iter().copied().max().unwrap_or_default(),
        dead: numbers.into_iter().filter(|number| !is_needed(number)).collect(),
        ..Survey::default()
    };
    found.read_last(folder, marked, &mut chain)?;
    let ends = chain.iter().skip(1).filter_map(|header| header.after).chain(found.after);
    found.links =
        chain.iter().zip(ends).map(|(header, end)| Link { header: *header, end }).collect();
    if let Some(kept) = floor.filter(|kept| kept.floor.at > found.highest) {
        let what = format!("the floor is at {}, and it ends before", kept.floor.at);
        return Err(refusal::damaged(folder, &segment::name(newest), 0, &what));
    }
    Ok(found)
}

/// Goes back from the newest segment to the first that is needed.
fn walk(
    folder: &dyn Folder,
    marked: Marked,
    (newest, first): (u64, u64),
) -> Result<Vec<Header>, LogError> {
    let mut chain: Vec<Header> = Vec::new();
    let mut number = newest;
    while number != 0 {
        let name = segment::name(number);
        let damaged = |what: &str| Err(refusal::damaged(folder, &name, 0, what));
        let header = match header(folder, number, marked) {
            Ok(Ok(header)) => header,
            Ok(Err(what)) => return damaged(what),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(refusal::missing(folder, &name, "the segment after it names it"));
            }
            Err(error) => return Err(refusal::unusable(folder, &name)(error)),
        };
        let named = chain.last().and_then(|next| next.after).map(|after| after.id);
        if named.is_some_and(|id| id != header.id) {
            return damaged("it is not the segment that the one after it names");
        }
        chain.push(header);
        number = match header.after {
            Some(after) if after.number >= number => {
                return damaged("it names a later one before it");
            }
            Some(after) if after.number >= first => after.number,
            // The one before it is not needed, or there was none.
            Some(_) | None => 0,
        };
    }
    chain.reverse();
    Ok(chain)
}

/// A segment's header; what is wrong with it if it can't be used.
fn header(
    folder: &dyn Folder,
    number: u64,
    marked: Marked,
) -> io::Result<Result<Header, &'static str>> {
    let file = folder.open(&segment::name(number))?;
    let bytes = file.bytes()?;
    if bytes < segment::START {
        return Ok(Err("it is cut off"));
    }
    let mut sector = [0; SECTOR];
    file.read_at(&mut sector, 0)?;
    Ok(Header::read(&sector).and_then(|header| match header {
        _ if header.journal != marked.journal => Err("it belongs to another journal than the mark"),
        _ if header.number != number => Err("it has another number than its name"),
        _ if header.bytes != bytes => Err("it is cut off"),
        _ => Ok(header),
    }))
}

impl Survey {
    /// Reads the last segment with records in it, which may be torn. Leaves in the chain what is kept.
    fn read_last(
        &mut self,
        folder: &dyn Folder,
        marked: Marked,
        chain: &mut Vec<Header>,
    ) -> Result<(), LogError> {
        let Some(newest) = chain.last() else { return Ok(()) };
        let mut contents = Contents::load(folder, newest.number)?;
        if contents.behind(segment::START).next().is_none() {
            self.empty = chain.pop();
            self.after = contents.header.after;
            contents = match chain.last() {
                Some(last) => Contents::load(folder, last.number)?,
                None => return self.judge(folder, marked, (&contents, &contents.header.start())),
            };
        }
        let limit = self.empty.and_then(|it| it.after).map_or(u64::MAX, |end| end.offset);
        let (mut at, mut proven) = (contents.header.start(), contents.header.durable);
        while let Some(frame) = contents.next(&mut at, limit) {
            if frame.kind == Kind::Seal {
                let name = segment::name(contents.header.number);
                let what = format!("\"{name}\" is sealed and names the one after it");
                let next = segment::name(contents.header.number + 1);
                return Err(refusal::missing(folder, &next, &what));
            }
            proven = proven.max(frame.synced);
        }
        self.judge(folder, marked, (&contents, &at))?;
        let empty = self.empty.map_or(Position(0), |empty| empty.durable);
        self.divide(&contents, proven.max(marked.position).max(empty), at.offset);
        if self.replaced.is_some() {
            chain.pop();
        }
        self.highest = self.highest.max(at.last);
        Ok(())
    }

    /// Whether the end that was reached in the last segment is one that a crash can have left.
    fn judge(
        &self,
        folder: &dyn Folder,
        marked: Marked,
        (contents, reached): (&Contents, &End),
    ) -> Result<(), LogError> {
        let header = &contents.header;
        let is_whole = self.empty.is_some_and(|empty| empty.after.is_none_or(|it| it == *reached));
        let (name, offset) = (segment::name(header.number), reached.offset);
        let damaged = |what: String| Err(refusal::damaged(folder, &name, offset, &what));
        let good = match self.empty {
            // All that is before the empty segment is there, so what was in use may be beyond it.
            Some(empty) if is_whole => empty.before().max(empty.base),
            Some(_) | None => reached.last.max(header.base),
        };
        let durable = self.empty.map_or(header.durable, |empty| empty.durable);
        if reached.last < header.durable || (!is_whole && durable > good) {
            return damaged(format!("records up to {} were durable", durable.max(header.durable)));
        }
        if marked.position > good {
            return damaged(format!("records up to {} were acknowledged", marked.position));
        }
        let later = contents.behind(offset).find(|frame| !is_whole && frame.synced > good);
        match later {
            Some(frame) => damaged(format!(
                "a later record, {}, says that {} was durable",
                frame.at, frame.synced
            )),
            None => Ok(()),
        }
    }

    /// Divides what can be read of the last segment into what is known to be durable, and what is
    /// to be written again. That is all of it where it is little, so that daemons that start and
    /// die, over and over, do not take a segment each (J14).
    fn divide(&mut self, contents: &Contents, proven: Position, end: u64) {
        let header = &contents.header;
        // Where a restore was accepted is said by the first segment after it.
        let begins_here =
            header.restore != AcceptedRestore::default() && header.restore.since == header.base;
        let is_little = self.empty.is_none() && !begins_here && end <= header.bytes / LITTLE;
        let mut at = header.start();
        let mut kept = at;
        while let Some(frame) = contents.next(&mut at, end) {
            if frame.last() <= proven && !is_little {
                kept = at;
                continue;
            }
            self.carried.push(Carried {
                operations: frame.operations,
                at: frame.at,
                author: frame.author,
                bytes: Bytes::copy_from_slice(frame.payload),
            });
        }
        self.replaced = is_little.then_some(header.number);
        self.after = if is_little { header.after } else { Some(kept) };
    }
}
