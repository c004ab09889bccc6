//! The mark: which journal this is, and up to where its owner was promised that all is durable.
//!
//! It is written after each sync, in place and without a sync of its own. After a kill it is exact;
//! after a power failure it may be an older one and then proves less. It is never newer than the
//! data, unless data was lost: that is how damage is distinguished from a write that was torn.

use std::{io, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    folder::{self, File, Folder},
    sector,
};
use crate::record::Position;

/// The name of its file.
pub(super) const NAME: &str = "mark";

const KIND: [u8; 8] = *b"lockdmrk";

/// What the mark says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
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
}

impl Mark {
    /// Makes the mark of a new journal, durable from the start: a file that was never synced could
    /// be empty after a power failure.
    pub(super) fn create(folder: &dyn Folder, journal: u128) -> io::Result<Self> {
        let said = Marked { journal, ..Marked::default() };
        let file = folder::create_durable(folder, NAME, &sector::seal(KIND, &said))?;
        Ok(Self { file, said, is_synced: true })
    }

    /// Opens the mark. `Err` within where it can't be understood.
    pub(super) fn open(folder: &dyn Folder) -> io::Result<Result<Self, &'static str>> {
        let said = sector::open(KIND, &folder::read(folder, NAME)?);
        let file = folder.open(NAME)?;
        Ok(said.map(|said| Self { file, said, is_synced: false }))
    }

    /// What it says.
    pub(super) fn said(&self) -> Marked {
        self.said
    }

    /// Has it say something else.
    pub(super) fn write(&mut self, said: Marked) -> io::Result<()> {
        self.file.write_at(&sector::seal(KIND, &said), 0)?;
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
