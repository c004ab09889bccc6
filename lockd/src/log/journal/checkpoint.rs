//! Checkpoints: chunks in a file of their own beside the segments.
//!
//! A chunk's checksum covers the journal, the floor, the checkpoint's random name and the chunk's
//! number. Under its name a file is whole; until then it has another one.

use std::{io, sync::Arc};

use bytes::{Buf as _, BufMut as _, Bytes};

use super::{
    floor::Kept,
    folder::{File, Folder},
    refusal,
};
use crate::{
    log::{Floor, LogError},
    record::Position,
};

/// The bytes before each chunk.
const HEAD: u64 = HEAD_BYTES as u64;
const HEAD_BYTES: usize = 8;

/// Which checkpoint it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) floor: Position,
    pub(super) which: u64,
}

/// A checkpoint that is being written.
pub(super) struct Writing {
    pub(super) name: Name,
    pub(super) chunks: u64,
    /// Bytes written.
    pub(super) bytes: u64,
    /// How much log there was when it was begun.
    pub(super) logged: u64,
    pub(super) file: Arc<dyn File>,
    seed: u32,
}

/// A checkpoint that is being read.
pub(super) struct Chunks {
    name: String,
    file: Arc<dyn File>,
    seed: u32,
    pub(super) bytes: u64,
    offset: u64,
    read: u64,
    chunks: u64,
}

impl Name {
    /// The checkpoint of a floor.
    pub(super) fn of(floor: &Floor) -> Self {
        Self { floor: floor.at, which: floor.which }
    }

    /// The name of its file.
    pub(super) fn file(self) -> String {
        format!("checkpoint-{:016x}-{:016x}", self.floor.0, self.which)
    }

    /// The name of its file as long as it is not finished.
    pub(super) fn unfinished(self) -> String {
        self.file() + ".new"
    }

    /// The finished checkpoint that has this name.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let (floor, which) = name.strip_prefix("checkpoint-")?.split_once('-')?;
        let number = |text| u64::from_str_radix(text, 16).ok();
        Some(Self { floor: Position(number(floor)?), which: number(which)? })
    }

    fn seed(self, journal: u128) -> u32 {
        let names = [self.floor.0.to_le_bytes(), self.which.to_le_bytes()].concat();
        crc32c::crc32c_append(crc32c::crc32c(&journal.to_le_bytes()), &names)
    }
}

impl Writing {
    pub(super) fn begin(
        folder: &dyn Folder,
        journal: u128,
        (name, logged): (Name, u64),
    ) -> io::Result<Self> {
        let (file, seed) = (folder.create(&name.unfinished())?, name.seed(journal));
        Ok(Self { name, chunks: 0, bytes: 0, logged, file, seed })
    }

    /// Writes a chunk. Durable when the checkpoint is finished.
    pub(super) fn write(&mut self, chunk: &[u8]) -> io::Result<()> {
        let length = u32::try_from(chunk.len()).map_err(io::Error::other)?;
        let mut buffer = Vec::new();
        buffer.put_u32_le(length);
        buffer.put_u32_le(checksum(self.seed, self.chunks, chunk));
        buffer.put_slice(chunk);
        self.file.write_at(&buffer, self.bytes)?;
        self.bytes += HEAD + u64::from(length);
        self.chunks += 1;
        Ok(())
    }
}

/// Makes a checkpoint durable under its name.
pub(super) fn finish(folder: &dyn Folder, file: &dyn File, name: Name) -> io::Result<()> {
    file.sync()?;
    folder.rename(&name.unfinished(), &name.file())?;
    folder.sync()
}

impl Chunks {
    /// Opens a floor's checkpoint.
    pub(super) fn open(folder: &dyn Folder, kept: &Kept) -> Result<Self, LogError> {
        let (named, floor) = (Name::of(&kept.floor), kept.floor);
        let name = named.file();
        let unusable = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => {
                let what = format!("it is the checkpoint at {}, the floor", floor.at);
                refusal::missing(folder, &name, &what)
            }
            _ => refusal::unusable(folder, &name)(error),
        };
        let file = folder.open(&name).map_err(unusable)?;
        let (bytes, seed) = (file.bytes().map_err(unusable)?, named.seed(kept.journal));
        Ok(Self { name, file, seed, bytes, offset: 0, read: 0, chunks: floor.chunks })
    }

    /// The next chunk; `None` after the last.
    pub(super) fn next(&mut self, folder: &dyn Folder) -> Result<Option<Bytes>, LogError> {
        let (name, offset, read, chunks) = (&self.name, self.offset, self.read, self.chunks);
        let damaged = |what: String| refusal::damaged(folder, name, offset, &what);
        let left = self.bytes - offset;
        if read == chunks && left == 0 {
            return Ok(None);
        } else if read == chunks {
            return Err(damaged(format!("there is more behind chunk {chunks}, the last")));
        }
        let cut_off = || damaged(format!("it ends before chunk {read} of {chunks}"));
        let failed = |error: io::Error| damaged(error.to_string());
        let mut head = [0; HEAD_BYTES];
        if left < HEAD {
            return Err(cut_off());
        }
        self.file.read_at(&mut head, offset).map_err(failed)?;
        let mut head = head.as_slice();
        let (length, expected) = (head.get_u32_le(), head.get_u32_le());
        if u64::from(length) > left - HEAD {
            return Err(cut_off());
        }
        let mut chunk = vec![0; usize::try_from(length).unwrap_or_default()];
        self.file.read_at(&mut chunk, offset + HEAD).map_err(failed)?;
        if checksum(self.seed, read, &chunk) != expected {
            return Err(damaged(format!("chunk {read} does not verify")));
        }
        self.offset += HEAD + u64::from(length);
        self.read += 1;
        Ok(Some(chunk.into()))
    }
}

fn checksum(seed: u32, number: u64, chunk: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(seed, &number.to_le_bytes()), chunk)
}
