//! Room on the disk that only releases may use.
//!
//! redb writes a page anew before it frees the old one, and doubles its file when no page is
//! free, so that on a full disk even a deletion may not fit. A file as large as the data file
//! is kept beside it: nothing is added unless it stands, and it is given up for a deletion.

use std::{io, path::PathBuf};

use rustix::{
    fs::{FallocateFlags, fallocate},
    io::Errno,
};

use super::{file::Gauge, folder};

#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
    bytes: u64,
    gauge: Gauge,
}

impl Reserve {
    /// The reserve at this path, if it is there.
    pub(super) fn find(path: PathBuf, gauge: Gauge) -> Self {
        let bytes = std::fs::metadata(&path).map_or(0, |found| found.len());
        gauge.reserve(bytes);
        Self { path, bytes, gauge }
    }

    /// Makes it as large as this at least.
    pub(super) fn ensure(&mut self, bytes: u64) -> io::Result<()> {
        if self.bytes >= bytes {
            return Ok(());
        }
        self.gauge.has_room(bytes, bytes)?;
        match fallocate(folder::open(&self.path)?, FallocateFlags::empty(), 0, bytes) {
            // Where a file system can't, there is no reserve, and a deletion may not fit.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
            Err(error) => return Err(error.into()),
        }
        self.bytes = bytes;
        self.gauge.reserve(bytes);
        Ok(())
    }

    /// Gives it up; whether there was any.
    pub(super) fn give_up(&mut self) -> bool {
        let there = self.bytes > 0 && std::fs::remove_file(&self.path).is_ok();
        self.bytes = 0;
        self.gauge.reserve(0);
        there
    }
}
