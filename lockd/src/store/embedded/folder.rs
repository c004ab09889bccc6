//! The data folder: who owns it, and what was acknowledged from it.
//!
//! Beside the data file lie `lockd.pid`, locked for as long as a daemon runs, and `lockd.seq`,
//! the number of the last commit that was acknowledged. redb keeps its last two commits and
//! falls back to the older one where the newer does not verify, which is right for a torn
//! write and wrong for a damaged one; the number tells them apart.

use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Seek as _, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use crate::store::StoreError;

/// A data folder that this process owns.
#[derive(Debug)]
pub(super) struct Folder {
    dir: PathBuf,
    acknowledged: File,
    /// Locked for as long as the folder is in use.
    _lock: File,
}

impl Folder {
    /// Takes possession of a folder, which is made if it is not there.
    pub(super) fn open(dir: &Path) -> Result<Self, StoreError> {
        std::fs::create_dir_all(dir).map_err(|error| unusable(dir, &error))?;
        let lock = lock(dir)?;
        let seq = dir.join("lockd.seq");
        let acknowledged = open(&seq).map_err(|error| unusable(&seq, &error))?;
        Ok(Self { dir: dir.to_owned(), acknowledged, _lock: lock })
    }

    /// The data file.
    pub(super) fn data(&self) -> PathBuf {
        data(&self.dir)
    }

    /// The room that is kept for releases.
    pub(super) fn reserve(&self) -> PathBuf {
        self.dir.join("lockd.reserve")
    }

    /// Makes the names of new files durable.
    pub(super) fn sync(&self) -> std::io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }

    /// Notes the number of a commit that is about to be acknowledged. Not synced: the note
    /// outlives the process, and after a power failure an older number only proves less.
    pub(super) fn acknowledge(&self, seq: u64) {
        let note = [seq.to_be_bytes(), (!seq).to_be_bytes()].concat();
        if let Err(error) = self.acknowledged.write_all_at(&note, 0) {
            tracing::warn!(%error, "lockd.seq can't be written: damage may go unnoticed");
        }
    }

    /// The number of the last commit that was acknowledged; `None` when nothing is known.
    pub(super) fn acknowledged(&self) -> Option<u64> {
        let mut note = [0; 16];
        self.acknowledged.read_exact_at(&mut note, 0).ok()?;
        let [seq, inverse] =
            [note.first_chunk()?, note.last_chunk()?].map(|half| u64::from_be_bytes(*half));
        (seq == !inverse).then_some(seq)
    }
}

/// The data file of a folder.
pub(super) fn data(dir: &Path) -> PathBuf {
    dir.join("lockd.redb")
}

/// Says that a file or folder can't be used as it is.
pub(super) fn unusable(path: &Path, error: &std::io::Error) -> StoreError {
    let path = path.display();
    StoreError::Broken(format!(
        "\"{path}\" can't be used: {error}; give lockd a folder that it may read and write, with --data-dir"
    ))
}

/// Opens a file to read and write, and makes it if it is not there.
pub(super) fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join("lockd.pid");
    let broken = |error| unusable(&path, &error);
    let mut file = open(&path).map_err(broken)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let mut pid = String::new();
            file.read_to_string(&mut pid).map_err(broken)?;
            return Err(StoreError::Broken(format!(
                "data folder \"{}\" is in use by another lockd (pid {}): stop it or choose another --data-dir",
                dir.display(),
                pid.trim()
            )));
        }
        Err(error) => return Err(broken(error.into())),
    }
    file.set_len(0).map_err(broken)?;
    file.rewind().map_err(broken)?;
    writeln!(file, "{}", std::process::id()).map_err(broken)?;
    Ok(file)
}
