//! The mark: which journal this is, and up to where its owner was promised that all is durable.
//!
//! It is written after each sync, in place and without a sync of its own. After a kill it is exact;
//! after a power failure it may be an older one and then proves less. It is never newer than the
//! data, unless data was lost: that is how damage is distinguished from a write that was torn.

use std::{io, sync::Arc};

use bytes::{Buf as _, BufMut as _};

use super::{
    folder::{self, File, Folder},
    sector::{self, SECTOR},
    segment::FORMAT,
};
use crate::record::Position;

/// The name of its file.
pub(super) const NAME: &str = "mark";

const MAGIC: &[u8; 8] = b"lockdmrk";

/// What the mark says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Marked {
    pub(super) journal: u128,
    /// The number of the newest segment; zero before the first.
    pub(super) segment: u64,
    /// What was acknowledged.
    pub(super) position: Position,
}

/// The mark's file, open.
pub(super) struct Mark {
    file: Arc<dyn File>,
    said: Marked,
    /// Whether what it says is durable itself.
    is_synced: bool,
    buffer: Vec<u8>,
}

impl Mark {
    /// Makes the mark of a new journal, durable from the start: a file that was never synced could
    /// be empty after a power failure.
    pub(super) fn create(folder: &dyn Folder, journal: u128) -> io::Result<Self> {
        const NEW: &str = "mark.new";
        let said = Marked { journal, segment: 0, position: Position(0) };
        let mut mark =
            Self { file: folder.create(NEW)?, said, is_synced: false, buffer: Vec::new() };
        mark.write(said)?;
        mark.sync()?;
        folder.rename(NEW, NAME)?;
        folder.sync()?;
        Ok(mark)
    }

    /// Opens the mark. `None` where it can't be understood.
    pub(super) fn open(folder: &dyn Folder) -> io::Result<Option<Self>> {
        let read = folder::read(folder, NAME)?;
        let Some(said) = Marked::read(&read) else { return Ok(None) };
        let file = folder.open(NAME)?;
        Ok(Some(Self { file, said, is_synced: false, buffer: Vec::with_capacity(SECTOR) }))
    }

    /// What it says.
    pub(super) fn said(&self) -> Marked {
        self.said
    }

    /// Has it say something else.
    pub(super) fn write(&mut self, said: Marked) -> io::Result<()> {
        let mut body = std::mem::take(&mut self.buffer);
        body.clear();
        said.write(&mut body);
        self.buffer = sector::seal(body);
        self.file.write_at(&self.buffer, 0)?;
        (self.said, self.is_synced) = (said, false);
        Ok(())
    }

    /// Makes durable what it says: from then on damage to any record before is noticed even where
    /// a power failure follows.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        if !self.is_synced {
            self.file.sync()?;
            self.is_synced = true;
        }
        Ok(())
    }
}

impl Marked {
    fn write(&self, body: &mut Vec<u8>) {
        body.put_slice(MAGIC);
        body.put_u32_le(FORMAT);
        body.put_u128_le(self.journal);
        body.put_u64_le(self.segment);
        body.put_u64_le(self.position.0);
    }

    fn read(file: &[u8]) -> Option<Self> {
        let (body, _) = sector::open(file)?;
        let mut body = body.strip_prefix(MAGIC)?;
        (body.try_get_u32_le().ok()? == FORMAT).then_some(())?;
        Some(Self {
            journal: body.try_get_u128_le().ok()?,
            segment: body.try_get_u64_le().ok()?,
            position: Position(body.try_get_u64_le().ok()?),
        })
    }
}
