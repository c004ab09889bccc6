//! The floor in force: up to where a checkpoint has taken the place of the records.
//!
//! Two sectors of one file take turns, so that a floor can be written where the disk is full, and
//! one that was torn leaves the one before it.

use std::{io, sync::Arc};

use bytes::{Buf as _, BufMut as _};

use super::{
    folder::{self, File, Folder},
    sector::{self, SECTOR},
    segment::FORMAT,
};
use crate::{log::Floor, record::Position};

/// The name of its file.
pub(super) const NAME: &str = "floor";

const MAGIC: &[u8; 8] = b"lockdflr";
const SLOTS: u64 = 2;

/// A floor, as it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
        const NEW: &str = "floor.new";
        let file = folder.create(NEW)?;
        file.write_at(&[0; 2 * SECTOR], 0)?;
        file.sync()?;
        folder.rename(NEW, NAME)?;
        folder.sync()?;
        Ok(Self { file, newest: None })
    }

    /// Opens the file that is there.
    pub(super) fn open(folder: &dyn Folder) -> io::Result<Self> {
        let bytes = folder::read(folder, NAME)?;
        let slots = bytes.chunks_exact(SECTOR).filter_map(Kept::read);
        let newest = slots.max_by_key(|kept| kept.turn);
        Ok(Self { file: folder.open(NAME)?, newest })
    }

    /// The floor in force, if there is one.
    pub(super) fn newest(&self) -> Option<Kept> {
        self.newest
    }

    /// Writes the floor in force again: a sync that failed may have left it in the cache alone (J12).
    pub(super) fn rewrite(&mut self) -> io::Result<()> {
        self.newest.map_or(Ok(()), |kept| self.put(kept))
    }

    /// Puts another floor in force, durably.
    pub(super) fn write(&mut self, journal: u128, first: u64, floor: Floor) -> io::Result<()> {
        let turn = self.newest.map_or(0, |newest| newest.turn + 1);
        self.put(Kept { journal, turn, first, floor })
    }

    fn put(&mut self, kept: Kept) -> io::Result<()> {
        let offset = (kept.turn % SLOTS) * u64::try_from(SECTOR).map_err(io::Error::other)?;
        self.file.write_at(&kept.write(), offset)?;
        self.file.sync()?;
        self.newest = Some(kept);
        Ok(())
    }
}

impl Kept {
    fn write(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(SECTOR);
        body.put_slice(MAGIC);
        body.put_u32_le(FORMAT);
        body.put_u128_le(self.journal);
        body.put_u64_le(self.turn);
        body.put_u64_le(self.first);
        body.put_u64_le(self.floor.at.0);
        body.put_u64_le(self.floor.which);
        body.put_u64_le(self.floor.chunks);
        body.put_u64_le(self.floor.items);
        body.put_u128_le(self.floor.digest);
        body.put_u32_le(self.floor.level);
        sector::seal(body)
    }

    fn read(slot: &[u8]) -> Option<Self> {
        let (body, _) = sector::open(slot)?;
        let mut body = body.strip_prefix(MAGIC)?;
        (body.try_get_u32_le().ok()? == FORMAT).then_some(())?;
        let (journal, turn) = (body.try_get_u128_le().ok()?, body.try_get_u64_le().ok()?);
        let first = body.try_get_u64_le().ok()?;
        let floor = Floor {
            at: Position(body.try_get_u64_le().ok()?),
            which: body.try_get_u64_le().ok()?,
            chunks: body.try_get_u64_le().ok()?,
            items: body.try_get_u64_le().ok()?,
            digest: body.try_get_u128_le().ok()?,
            level: body.try_get_u32_le().ok()?,
        };
        Some(Self { journal, turn, first, floor })
    }
}
