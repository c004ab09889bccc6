//! Delivers what was in the journal when it was opened: the checkpoint, then the records behind it.
//! One segment at a time is in memory.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;

use super::{
    checkpoint::{Chunks, Damage, Name},
    floor::Kept,
    folder::Folder,
    frame::Kind,
    read::{Contents, Cursor},
    refusal, segment,
    survey::Link,
};
use crate::{
    log::{Delivered, Event, Floor, LogError},
    record::{Position, ReplicaId},
};

/// What is still to be delivered.
pub(super) struct Replay {
    folder: Arc<dyn Folder>,
    stage: ReplayStage,
    floor: Option<Kept>,
    links: VecDeque<Link>,
    me: ReplicaId,
}

/// A segment that is being read.
struct Reading {
    contents: Contents,
    cursor: Cursor,
    link: Link,
}

enum ReplayStage {
    Reset,
    Chunks(Chunks),
    Records(Option<Box<Reading>>),
    Over,
}

impl Replay {
    pub(super) fn new(folder: Arc<dyn Folder>, floor: Option<Kept>, me: ReplicaId) -> Self {
        Self { folder, stage: ReplayStage::Reset, floor, links: VecDeque::new(), me }
    }

    /// The segments to read, oldest first.
    pub(super) fn with(self, links: Vec<Link>) -> Self {
        Self { links: links.into(), ..self }
    }

    /// The next event; `None` after the last.
    pub(super) fn next(&mut self) -> Result<Option<Event>, LogError> {
        loop {
            match &mut self.stage {
                ReplayStage::Reset => {
                    self.stage = match self.floor {
                        Some(kept) => ReplayStage::Chunks(open(&*self.folder, &kept)?),
                        None => ReplayStage::Records(None),
                    };
                    return Ok(Some(Event::Reset));
                }
                ReplayStage::Chunks(chunks) => {
                    let floor = self.floor.map(|kept| kept.floor).unwrap_or_default();
                    if let Some(chunk) = next_chunk(&*self.folder, &floor, chunks)? {
                        return Ok(Some(Event::Chunk(chunk)));
                    }
                    self.stage = ReplayStage::Records(None);
                    return Ok(Some(Event::Floor(floor)));
                }
                ReplayStage::Records(reading) => {
                    let after = self.floor.map_or(Position(0), |kept| kept.floor.at);
                    if let Some(reading) = reading
                        && let Some(record) = next_record(&*self.folder, reading, after)?
                    {
                        return Ok(Some(Event::Record(record)));
                    }
                    let Some(link) = self.links.pop_front() else {
                        self.stage = ReplayStage::Over;
                        return Ok(Some(Event::Live(self.me)));
                    };
                    let contents = Contents::load(&*self.folder, link.header.number)?;
                    let cursor = contents.start();
                    *reading = Some(Box::new(Reading { contents, cursor, link }));
                }
                ReplayStage::Over => return Ok(None),
            }
        }
    }
}

/// The next record of a segment behind a floor; `None` at its end.
fn next_record(
    folder: &dyn Folder,
    reading: &mut Reading,
    after: Position,
) -> Result<Option<Delivered>, LogError> {
    let Reading { contents, cursor, link } = reading;
    while let Some(frame) = contents.next(cursor, link.end.offset) {
        if frame.kind == Kind::Record && frame.last() > after {
            let bytes = Bytes::copy_from_slice(frame.payload);
            return Ok(Some(Delivered { at: frame.at, author: frame.author, lane: None, bytes }));
        }
    }
    let reached = contents.end(cursor);
    if reached == link.end {
        return Ok(None);
    }
    let what = "it was whole a moment ago";
    Err(refusal::damaged(folder, &segment::name(link.header.number), reached.offset, what))
}

/// Opens a floor's checkpoint.
pub(super) fn open(folder: &dyn Folder, kept: &Kept) -> Result<Chunks, LogError> {
    let name = Name::of(&kept.floor).file();
    Chunks::open(folder, kept.journal, &kept.floor).map_err(|error| {
        if error.kind() == std::io::ErrorKind::NotFound {
            let what = format!("it is the checkpoint at {}, the floor", kept.floor.at);
            return refusal::missing(folder, &name, &what);
        }
        refusal::unusable(folder, &name, &error)
    })
}

/// The next chunk of a checkpoint.
pub(super) fn next_chunk(
    folder: &dyn Folder,
    floor: &Floor,
    chunks: &mut Chunks,
) -> Result<Option<Bytes>, LogError> {
    chunks.next().map_err(|Damage { offset, what }| {
        refusal::damaged(folder, &Name::of(floor).file(), offset, &what)
    })
}
