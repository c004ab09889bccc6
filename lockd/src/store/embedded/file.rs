//! The data file as redb sees it: redb's own backend, except that what the file grows by is
//! allocated at once. A disk that is full is then noticed when the file would grow, while
//! writes inside it, releases among them, still succeed.

use std::{
    fs::File,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use redb::{StorageBackend, backends::FileBackend};
use rustix::{
    fs::{FallocateFlags, fallocate},
    io::Errno,
};

/// What is known of the file's writes, shared with every backend that was opened on it.
#[derive(Debug, Clone, Default)]
pub(super) struct Gauge {
    syncs: Arc<AtomicU64>,
    reserved: Arc<AtomicU64>,
    #[cfg(test)]
    fault: Arc<std::sync::Mutex<Option<Fault>>>,
}

impl Gauge {
    /// Notes how much is kept in reserve.
    pub(super) fn reserve(&self, bytes: u64) {
        self.reserved.store(bytes, Ordering::Relaxed);
    }

    /// Fails where a test leaves less room than a data file and a reserve of these sizes want.
    pub(super) fn has_room(&self, data: u64, reserve: u64) -> io::Result<()> {
        #[cfg(test)]
        if let Some(Fault::Room(room)) = *self.fault.lock().unwrap()
            && data + reserve > room
        {
            return Err(io::ErrorKind::StorageFull.into());
        }
        #[cfg(not(test))]
        let _sizes = (data, reserve);
        Ok(())
    }

    pub(super) fn reserved(&self) -> u64 {
        self.reserved.load(Ordering::Relaxed)
    }

    /// How often the file was synced.
    #[cfg(test)]
    pub(super) fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    #[cfg(test)]
    pub(super) fn fail(&self, fault: Option<Fault>) {
        *self.fault.lock().unwrap() = fault;
    }
}

/// How the disk fails in a test.
#[cfg(test)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Data file and reserve have this many bytes at most.
    Room(u64),
    /// Nothing can be written.
    NoWrites,
    /// Everything is written, but no sync succeeds: the worst case, as it may be on disk.
    NoSyncs,
}

/// A backend for redb.
#[derive(Debug)]
pub(super) struct DataFile {
    inner: FileBackend,
    /// The same file, to allocate space in.
    file: File,
    gauge: Gauge,
}

impl DataFile {
    pub(super) fn new(file: File, gauge: Gauge) -> Result<Self, redb::DatabaseError> {
        let other = file.try_clone().map_err(redb::StorageError::Io)?;
        Ok(Self { inner: FileBackend::new(file)?, file: other, gauge })
    }

    #[cfg(test)]
    fn check(&self, fails: fn(Fault) -> Option<io::ErrorKind>) -> io::Result<()> {
        let fault = *self.gauge.fault.lock().unwrap();
        fault.and_then(fails).map_or(Ok(()), |kind| Err(kind.into()))
    }
}

impl StorageBackend for DataFile {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let old = self.inner.len()?;
        if len > old {
            self.gauge.has_room(len, self.gauge.reserved())?;
            match fallocate(&self.file, FallocateFlags::empty(), old, len - old) {
                // Not every file system can; then the space is found, or not, when it is used.
                Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.inner.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        #[cfg(test)]
        self.check(|fault| (fault == Fault::NoSyncs).then_some(io::ErrorKind::Other))?;
        self.gauge.syncs.fetch_add(1, Ordering::Relaxed);
        self.inner.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        #[cfg(test)]
        self.check(|fault| (fault == Fault::NoWrites).then_some(io::ErrorKind::StorageFull))?;
        self.inner.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }
}
