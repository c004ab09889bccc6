//! Checkpoints: chunks in a file of their own beside the segments.
//!
//! A chunk's checksum covers the journal, the floor, the checkpoint's random name and the chunk's
//! number. Under its name a file is whole; until then it has another one.

use std::{io, sync::Arc};

use bytes::{Buf as _, BufMut as _, Bytes};

use super::folder::{File, Folder};
use crate::{log::Floor, record::Position};

/// The bytes before each chunk.
const HEAD: usize = 8;

const UNFINISHED: &str = ".new";

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
    pub(super) offset: u64,
    file: Arc<dyn File>,
    journal: u128,
    buffer: Vec<u8>,
}

/// A checkpoint that is being read.
pub(super) struct Chunks {
    file: Arc<dyn File>,
    seed: u32,
    bytes: u64,
    offset: u64,
    read: u64,
    chunks: u64,
}

/// What is wrong with a checkpoint, and where.
#[derive(Debug)]
pub(super) struct Damage {
    pub(super) offset: u64,
    pub(super) what: String,
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
        self.file() + UNFINISHED
    }

    /// The finished checkpoint that has this name.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let (floor, which) = name.strip_prefix("checkpoint-")?.split_once('-')?;
        let number = |text| u64::from_str_radix(text, 16).ok();
        Some(Self { floor: Position(number(floor)?), which: number(which)? })
    }

    fn seed(self, journal: u128) -> u32 {
        let mut bytes = Vec::with_capacity(32);
        bytes.put_u128_le(journal);
        bytes.put_u64_le(self.floor.0);
        bytes.put_u64_le(self.which);
        crc32c::crc32c(&bytes)
    }
}

impl Writing {
    pub(super) fn begin(folder: &dyn Folder, journal: u128, name: Name) -> io::Result<Self> {
        let file = folder.create(&name.unfinished())?;
        Ok(Self { name, chunks: 0, offset: 0, file, journal, buffer: Vec::new() })
    }

    /// Writes a chunk. Durable when the checkpoint is finished.
    pub(super) fn write(&mut self, chunk: &[u8]) -> io::Result<()> {
        let length = u32::try_from(chunk.len()).map_err(io::Error::other)?;
        let checksum = checksum(self.name.seed(self.journal), self.chunks, chunk);
        self.buffer.clear();
        self.buffer.put_u32_le(length);
        self.buffer.put_u32_le(checksum);
        self.buffer.put_slice(chunk);
        self.file.write_at(&self.buffer, self.offset)?;
        self.offset += u64::try_from(self.buffer.len()).map_err(io::Error::other)?;
        self.chunks += 1;
        Ok(())
    }

    /// Its file.
    pub(super) fn file(&self) -> Arc<dyn File> {
        self.file.clone()
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
    pub(super) fn open(folder: &dyn Folder, journal: u128, floor: &Floor) -> io::Result<Self> {
        let name = Name::of(floor);
        let file = folder.open(&name.file())?;
        let (bytes, seed) = (file.bytes()?, name.seed(journal));
        Ok(Self { file, seed, bytes, offset: 0, read: 0, chunks: floor.chunks })
    }

    /// The next chunk; `None` after the last.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, Damage> {
        let damage = |what: String| Damage { offset: self.offset, what };
        if self.read == self.chunks {
            return if self.offset == self.bytes {
                Ok(None)
            } else {
                Err(damage(format!("there is more behind chunk {}, the last", self.chunks)))
            };
        }
        let cut_off = || damage(format!("it ends before chunk {} of {}", self.read, self.chunks));
        let failed = |error: io::Error| damage(error.to_string());
        let left = self.bytes - self.offset;
        let mut head = [0; HEAD];
        if left < HEAD as u64 {
            return Err(cut_off());
        }
        self.file.read_at(&mut head, self.offset).map_err(failed)?;
        let mut head = head.as_slice();
        let (length, expected) = (head.get_u32_le(), head.get_u32_le());
        if u64::from(length) > left - HEAD as u64 {
            return Err(cut_off());
        }
        let mut chunk = vec![0; usize::try_from(length).unwrap_or_default()];
        self.file.read_at(&mut chunk, self.offset + HEAD as u64).map_err(failed)?;
        if checksum(self.seed, self.read, &chunk) != expected {
            return Err(damage(format!("chunk {} does not verify", self.read)));
        }
        self.offset += HEAD as u64 + u64::from(length);
        self.read += 1;
        Ok(Some(chunk.into()))
    }

    /// Its size.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

fn checksum(seed: u32, number: u64, chunk: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(seed, &number.to_le_bytes()), chunk)
}
