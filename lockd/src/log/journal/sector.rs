//! Small facts that are overwritten in place: each has a sector of the disk to itself, which is
//! written whole or not at all, and a checksum over all of it.

use bytes::BufMut as _;

/// What a disk writes whole or not at all.
pub(super) const SECTOR: usize = 512;

const CHECKSUM: usize = 4;

/// A sector that begins with these bytes and verifies.
pub(super) fn seal(mut body: Vec<u8>) -> Vec<u8> {
    body.resize(SECTOR - CHECKSUM, 0);
    let checksum = crc32c::crc32c(&body);
    body.put_u32_le(checksum);
    body
}

/// What is in a sector, and its checksum, if it verifies.
pub(super) fn open(sector: &[u8]) -> Option<(&[u8], u32)> {
    let (body, checksum) = sector.get(..SECTOR)?.split_last_chunk::<CHECKSUM>()?;
    let checksum = u32::from_le_bytes(*checksum);
    (crc32c::crc32c(body) == checksum).then_some((body, checksum))
}
