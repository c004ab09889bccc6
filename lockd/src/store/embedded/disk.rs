//! The state on disk: one redb file, one transaction and one fsync for each group of writes.
//!
//! On opening, the checksum of every page and record is verified: a torn last write is rolled
//! back, and anything else that is damaged is refused. A commit that failed is settled: it is
//! made certain that it can't show up later, before anyone is told that it failed.

use std::{io::ErrorKind, path::Path};

use redb::{Database, DatabaseError};

use super::{
    file::{DataFile, Gauge},
    folder::{self, Folder},
    reserve::Reserve,
    rows::{self, Unreadable},
    state::{Effects, State},
};
use crate::store::{Change, Revision, StoreError};

/// redb's cache. Everything is in memory above it, and is read once, on opening.
const CACHE_BYTES: usize = 8 * 1024 * 1024;

/// The most changes that are put off.
const MAX_PUT_OFF: usize = 1024;

/// The data of a folder that this process owns.
#[derive(Debug)]
pub(super) struct Disk {
    folder: Folder,
    gauge: Gauge,
    reserve: Reserve,
    /// `None` after a failed commit, until it is settled.
    database: Option<Database>,
    /// The number of the last commit that succeeded.
    seq: u64,
    /// What a failed commit left behind, as far as is known.
    left: Left,
    /// Changes that were told already: the next commit takes them along.
    put_off: Vec<Change>,
}

/// Whether a group of writes may need more room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// It adds something.
    Takes,
    /// It only deletes.
    Gives,
}

/// What a failed commit may have left in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    /// Space ran out: all of it or nothing, as the number of the last commit tells.
    Whole,
    /// A write or sync failed: what can be read back need not be on disk.
    Anything,
}

impl Disk {
    /// Takes possession of a data folder, and reads what is in it.
    pub(super) fn open(dir: &Path, gauge: Gauge) -> Result<(Self, State), StoreError> {
        let folder = Folder::open(dir)?;
        let data = folder.data();
        let acknowledged = folder.acknowledged();
        let is_there = data.try_exists().map_err(|error| folder::unusable(&data, &error))?;
        if !is_there {
            if acknowledged.is_some() {
                return Err(gone_back(&data, "it is missing"));
            }
            create(&folder, &gauge)?;
        }
        let (database, seq, state) = open(&data, &gauge)?;
        if let Some(acknowledged) = acknowledged.filter(|acknowledged| *acknowledged > seq) {
            let lacks = format!("it ends with commit {seq}, and {acknowledged} was acknowledged");
            return Err(gone_back(&data, &lacks));
        }
        folder.acknowledge(seq);
        let reserve = Reserve::find(folder.reserve(), gauge.clone());
        let database = Some(database);
        let (left, put_off) = (Left::Whole, Vec::new());
        let disk = Self { folder, gauge, reserve, database, seq, left, put_off };
        Ok((disk, state))
    }

    /// Makes a group of writes durable. After a failure nothing of it counts, and the disk
    /// has to be [settled](Self::settle) before anything else.
    pub(super) fn commit(
        &mut self,
        effects: &Effects,
        revision: Revision,
        room: Room,
    ) -> Result<(), StoreError> {
        if room == Room::Takes {
            self.ensure_reserve()?;
        }
        match self.write(effects, revision) {
            Err(StoreError::Full(_)) if room == Room::Gives && self.reserve.give_up() => {
                self.reopen_unchanged()?;
                self.write(effects, revision)
            }
            written => written,
        }
    }

    /// Leaves changes to the next commit.
    pub(super) fn put_off(&mut self, effects: &Effects) {
        let changes = effects.changes.iter().flat_map(|(_, changes)| changes);
        self.put_off.extend(changes.cloned());
    }

    pub(super) fn has_room_to_put_off(&self) -> bool {
        self.put_off.len() < MAX_PUT_OFF
    }

    /// Whether something waits for the next commit.
    pub(super) fn has_put_off(&self) -> bool {
        !self.put_off.is_empty()
    }

    fn write(&mut self, effects: &Effects, revision: Revision) -> Result<(), StoreError> {
        let Some(database) = &self.database else {
            return Err(StoreError::Unavailable("the data file is being reopened".to_owned()));
        };
        let seq = self.seq + 1;
        let changes = effects.changes.iter().flat_map(|(_, changes)| changes);
        let changes = self.put_off.iter().chain(changes);
        let written = rows::write(database, changes, &effects.leases, (revision, seq));
        self.finish(written, seq)
    }

    fn ensure_reserve(&mut self) -> Result<(), StoreError> {
        let bytes = std::fs::metadata(self.folder.data()).map(|data| data.len());
        bytes.and_then(|bytes| self.reserve.ensure(bytes)).map_err(|error| {
            StoreError::Full(format!("{}: {error}", self.folder.reserve().display()))
        })
    }

    fn reopen_unchanged(&mut self) -> Result<(), StoreError> {
        let data = self.folder.data();
        let (database, seq, _) = open(&data, &self.gauge)?;
        if seq != self.seq {
            return Err(StoreError::Full(format!("{}: a commit failed late", data.display())));
        }
        self.database = Some(database);
        Ok(())
    }

    /// Makes certain that a failed commit can't show up later: opens the file again, and if
    /// something of the commit may be in it, writes the whole state anew.
    pub(super) fn settle(&mut self, state: &State) -> Result<(), StoreError> {
        if self.database.is_some() {
            return Ok(());
        }
        let (database, seq, _) = open(&self.folder.data(), &self.gauge)?;
        if seq != self.seq || self.left == Left::Anything {
            let seq = self.seq.max(seq) + 1;
            let written = rows::rewrite(&database, state, seq);
            self.finish(written, seq)?;
        }
        self.database = Some(database);
        self.left = Left::Whole;
        Ok(())
    }

    fn finish(&mut self, written: Result<(), redb::Error>, seq: u64) -> Result<(), StoreError> {
        match written {
            Ok(()) => {
                self.seq = seq;
                self.put_off.clear();
                self.folder.acknowledge(seq);
                Ok(())
            }
            Err(error) => {
                self.database = None;
                let text = format!("{}: {error}", self.folder.data().display());
                if is_full(&error) {
                    return Err(StoreError::Full(text));
                }
                self.left = Left::Anything;
                Err(StoreError::Unavailable(text))
            }
        }
    }
}

/// Makes the data file under another name first: a file that is there is whole.
fn create(folder: &Folder, gauge: &Gauge) -> Result<(), StoreError> {
    let data = folder.data();
    let new = data.with_extension("new");
    let fails = |error: std::io::Error| match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            StoreError::Full(format!("{}: {error}", data.display()))
        }
        _ => folder::unusable(&data, &error),
    };
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(fails(error)),
        Ok(()) | Err(_) => {}
    }
    let made = open_database(&new, gauge).map_err(redb::Error::from);
    let written = made.and_then(|database| rows::rewrite(&database, &State::default(), 0));
    written.map_err(|error| fails(std::io::Error::new(io_kind(&error), error)))?;
    std::fs::rename(&new, &data).and_then(|()| folder.sync()).map_err(fails)
}

fn open(data: &Path, gauge: &Gauge) -> Result<(Database, u64, State), StoreError> {
    let database = open_database(data, gauge).map_err(|error| match error {
        DatabaseError::Storage(redb::StorageError::Corrupted(what)) => Unreadable::Damaged(what),
        error => Unreadable::Redb(error.into()),
    });
    let read = database.and_then(|database| Ok((rows::read(&database)?, database)));
    let ((seq, state), database) = read.map_err(|error| match error {
        Unreadable::Redb(redb::Error::Io(error)) => folder::unusable(data, &error),
        error => StoreError::Broken(format!("\"{}\" can't be used: {error}", data.display())),
    })?;
    Ok((database, seq, state))
}

fn open_database(data: &Path, gauge: &Gauge) -> Result<Database, DatabaseError> {
    let file = folder::open(data).map_err(redb::StorageError::Io)?;
    Database::builder()
        .set_cache_size(CACHE_BYTES)
        .set_check_integrity_on_open(true)
        .create_with_backend(DataFile::new(file, gauge.clone())?)
}

fn gone_back(data: &Path, why: &str) -> StoreError {
    StoreError::Broken(format!(
        "\"{}\" can't be used: {why}; restore the whole folder, or delete lockd.seq beside it to go back, which lets fencing tokens repeat",
        data.display()
    ))
}

fn io_kind(error: &redb::Error) -> ErrorKind {
    match error {
        redb::Error::Io(error) => error.kind(),
        _ => ErrorKind::Other,
    }
}

fn is_full(error: &redb::Error) -> bool {
    matches!(
        io_kind(error),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge
    )
}
