//! Small facts that are overwritten in place: each has a sector of the disk to itself, which is
//! written whole or not at all, and a checksum over all of it.

use bytes::BufMut as _;
use serde::{Serialize, de::DeserializeOwned};

/// What a disk writes whole or not at all.
pub(super) const SECTOR: usize = 512;

/// What is said of a sector that is damaged, or was never whole.
pub(super) const UNVERIFIED: &str = "it does not verify";

/// The version of the format of all files of a journal.
const FORMAT: u32 = 1;

const CHECKSUM: usize = 4;

/// A sector with a fact of this kind.
pub(super) fn seal(kind: [u8; 8], fact: &impl Serialize) -> Vec<u8> {
    let mut body = Vec::with_capacity(SECTOR);
    body.put_slice(&kind);
    body.put_u32_le(FORMAT);
    // Writing to memory does not fail, and no fact is as large as a sector.
    let mut body = postcard::to_extend(fact, body).unwrap_or_default();
    body.resize(SECTOR - CHECKSUM, 0);
    body.put_u32_le(crc32c::crc32c(&body));
    body
}

/// The fact in a sector, or what is wrong with it.
pub(super) fn open<T: DeserializeOwned>(kind: [u8; 8], sector: &[u8]) -> Result<T, &'static str> {
    let body = sector.get(..SECTOR - CHECKSUM).ok_or("it is cut off")?;
    if crc32c::crc32c(body) != checksum(sector) {
        return Err(UNVERIFIED);
    }
    let body = body.strip_prefix(&kind).ok_or("it is of another kind than its name")?;
    let body = body.strip_prefix(&FORMAT.to_le_bytes());
    let body = body.ok_or("its format is not known to this lockd")?;
    let (fact, _) = postcard::take_from_bytes(body).map_err(|_| "it is too short")?;
    Ok(fact)
}

/// The checksum of a sector.
pub(super) fn checksum(sector: &[u8]) -> u32 {
    let checksum = sector.get(..SECTOR).and_then(<[u8]>::last_chunk);
    checksum.map_or(0, |bytes| u32::from_le_bytes(*bytes))
}
