//! Delivers what was in the journal when it was opened: the checkpoint, then the records behind it.
//! One segment at a time is in memory.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;

use super::{
    checkpoint::Chunks,
    floor::Kept,
    folder::Folder,
    frame::Kind,
    refusal,
    segment::{self, Contents, End},
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
    /// Restores that were accepted up to here are known.
    restored: Position,
    /// A record that comes after one that is not.
    held: Option<Delivered>,
    me: ReplicaId,
}

/// A segment that is being read.
struct Reading {
    contents: Contents,
    at: End,
    end: End,
}

enum ReplayStage {
    Reset,
    Chunks(Chunks, Floor),
    Records(Option<Box<Reading>>),
    Over,
}

impl Replay {
    /// What is in these segments, oldest first, behind a floor.
    pub(super) fn new(
        folder: Arc<dyn Folder>,
        floor: Option<Kept>,
        links: Vec<Link>,
        me: ReplicaId,
    ) -> Self {
        let restored = floor.map_or(Position(0), |kept| kept.floor.at);
        let stage = ReplayStage::Reset;
        Self { folder, stage, floor, links: links.into(), restored, held: None, me }
    }

    /// The next event; `None` after the last.
    pub(super) fn next(&mut self) -> Result<Option<Event>, LogError> {
        loop {
            let (stage, event) = match &mut self.stage {
                ReplayStage::Reset => {
                    let chunks = |kept| Chunks::open(&*self.folder, kept);
                    let stage = match &self.floor {
                        Some(kept) => ReplayStage::Chunks(chunks(kept)?, kept.floor),
                        None => ReplayStage::Records(None),
                    };
                    (stage, Event::Reset)
                }
                ReplayStage::Chunks(chunks, floor) => match chunks.next(&*self.folder)? {
                    Some(chunk) => return Ok(Some(Event::Chunk(chunk))),
                    None => (ReplayStage::Records(None), Event::Floor(*floor)),
                },
                ReplayStage::Records(_) => {
                    if let Some(event) = self.next_of_segment()? {
                        return Ok(Some(event));
                    }
                    let Some(Link { header, end }) = self.links.pop_front() else {
                        self.stage = ReplayStage::Over;
                        return Ok(Some(Event::Live(self.me)));
                    };
                    let contents = Contents::load(&*self.folder, header.number)?;
                    let at = contents.header.start();
                    let reading = Box::new(Reading { contents, at, end });
                    self.stage = ReplayStage::Records(Some(reading));
                    continue;
                }
                ReplayStage::Over => return Ok(None),
            };
            self.stage = stage;
            return Ok(Some(event));
        }
    }

    /// The next event of the segment that is being read; `None` at its end.
    fn next_of_segment(&mut self) -> Result<Option<Event>, LogError> {
        let ReplayStage::Records(Some(reading)) = &mut self.stage else { return Ok(None) };
        let record = match self.held.take() {
            None => {
                let after = self.floor.map_or(Position(0), |kept| kept.floor.at);
                reading.next(&*self.folder, after)?
            }
            held => held,
        };
        // A segment has records of before as well, which were carried over into it.
        let since = reading.contents.header.restore.since;
        let is_before = record.as_ref().is_some_and(|record| record.at <= since);
        if since > self.restored && !is_before {
            (self.restored, self.held) = (since, record);
            return Ok(Some(Event::Restored { at: since }));
        }
        Ok(record.map(Event::Record))
    }
}

impl Reading {
    /// The next record behind a floor; `None` at the end, which has to be reached.
    fn next(
        &mut self,
        folder: &dyn Folder,
        after: Position,
    ) -> Result<Option<Delivered>, LogError> {
        while let Some(frame) = self.contents.next(&mut self.at, self.end.offset) {
            if frame.kind == Kind::Record && frame.last() > after {
                let (at, author, lane) = (frame.at, frame.author, None);
                let bytes = Bytes::copy_from_slice(frame.payload);
                return Ok(Some(Delivered { at, author, lane, bytes }));
            }
        }
        if self.at == self.end {
            return Ok(None);
        }
        let what = format!("records up to {} were durable", self.end.last);
        let name = segment::name(self.end.number);
        Err(refusal::damaged(folder, &name, self.at.offset, &what))
    }
}
