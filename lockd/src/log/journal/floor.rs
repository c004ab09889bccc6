//! The floor in force: up to where a checkpoint has taken the place of the records.
//!
//! Two sectors of one file take turns, so that a floor can be written where the disk is full, and
//! one that was torn leaves the one before it.

use std::{io, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    folder::{self, File, Folder},
    sector::{self, SECTOR},
};
use crate::log::Floor;

/// The name of its file.
pub(super) const NAME: &str = "floor";

const KIND: [u8; 8] = *b"lockdflr";

/// A floor, as it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) journal: u128,
    /// How many floors there were before it.
    turn: u64,
    /// The number of the first segment that is needed.
    pub(super) first: u64,
    pub(super) floor: Floor,
}

/// The file of floors, open.
pub(super) struct Floors {
    file: Arc<dyn File>,
    newest: Option<Kept>,
}

impl Floors {
    /// Makes the file, without a floor.
    pub(super) fn create(folder: &dyn Folder) -> io::Result<Self> {
        let file = folder::create_durable(folder, NAME, &[0; 2 * SECTOR])?;
        Ok(Self { file, newest: None })
    }

    /// Opens the file that is there. Writes the floor in force again: a sync that failed may have left it
    /// in the cache alone (J12).
    pub(super) fn open(folder: &dyn Folder) -> io::Result<Self> {
        let bytes = folder::read(folder, NAME)?;
        let slots = bytes.chunks_exact(SECTOR).filter_map(|slot| sector::open(KIND, slot).ok());
        let newest = slots.max_by_key(|kept: &Kept| kept.turn);
        let floors = Self { file: folder.open(NAME)?, newest };
        newest.map_or(Ok(()), |kept| kept.write(&*floors.file))?;
        Ok(floors)
    }

    /// The floor in force, if there is one.
    pub(super) fn newest(&self) -> Option<Kept> {
        self.newest
    }

    /// The next floor, and the file that it is to be written to.
    pub(super) fn next(
        &mut self,
        journal: u128,
        first: u64,
        floor: Floor,
    ) -> (Kept, Arc<dyn File>) {
        let turn = self.newest.map_or(0, |newest| newest.turn + 1);
        let kept = Kept { journal, turn, first, floor };
        self.newest = Some(kept);
        (kept, self.file.clone())
    }
}

impl Kept {
    /// Puts it in force, durably.
    pub(super) fn write(&self, file: &dyn File) -> io::Result<()> {
        file.write_at(&sector::seal(KIND, self), (self.turn % 2) * SECTOR as u64)?;
        file.sync()
    }
}
