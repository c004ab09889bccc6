//! The bytes of a record.
//!
//! The format is strict: what this version does not know is an error, never skipped, so that no
//! replica applies a part of an operation. New operations and fields come with a new level.

use serde::{Deserialize, Serialize};

use super::{Operation, Position};

/// The newest level of operations that this version can read and write.
pub(crate) const LEVEL: u32 = 1;

/// A batch of operations, applied as a whole.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Record {
    /// The place up to which its author had applied the log, and the digest of the state there: now and
    /// then, so that replicas that differ notice.
    pub digest: Option<(Position, u128)>,
    /// The operations, in order.
    pub operations: Vec<Operation>,
}

/// A record that this version can't read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// It was written by a newer version.
    #[error(
        "the log has a record of level {found}, and this version of lockd reads up to level {LEVEL}: \
         upgrade lockd on this machine"
    )]
    Newer {
        /// Its level.
        found: u32,
    },
    /// It is not a record.
    #[error(
        "the log has a record that can't be read ({0}): it was written by a newer version of lockd, \
             which this one must be upgraded to, or it is damaged"
    )]
    Malformed(String),
}

impl Record {
    /// Its bytes, written behind what is in `buffer`.
    ///
    /// # Errors
    /// It can't be encoded, which no record that this crate makes does.
    pub fn encode(&self) -> Result<Vec<u8>, RecordError> {
        let level = LEVEL.to_le_bytes().to_vec();
        postcard::to_extend(self, level).map_err(|error| RecordError::Malformed(error.to_string()))
    }

    /// Reads a record.
    ///
    /// # Errors
    /// `RecordError` if any of it is unknown to this version.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let malformed = |text: &str| RecordError::Malformed(text.to_owned());
        let (level, body) =
            bytes.split_first_chunk().ok_or_else(|| malformed("it has no level"))?;
        let found = u32::from_le_bytes(*level);
        if found > LEVEL {
            return Err(RecordError::Newer { found });
        }
        if found == 0 {
            return Err(malformed("there is no level 0"));
        }
        let (record, rest): (Self, _) =
            postcard::take_from_bytes(body).map_err(|error| malformed(&error.to_string()))?;
        if !rest.is_empty() {
            return Err(malformed("bytes are left over"));
        }
        record.operations.iter().try_for_each(|operation| match operation {
            Operation::Level(level) if *level > LEVEL => Err(RecordError::Newer { found: *level }),
            _ => Ok(()),
        })?;
        Ok(record)
    }
}

#[cfg(test)]
mod tests;
