//! The limit on what an acquire may say of itself.

use std::collections::HashMap;

/// The most that keys and values of one acquire's metadata may take together, in bytes.
pub const MAX_METADATA_BYTES: usize = 4096;

/// Metadata over [`MAX_METADATA_BYTES`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("metadata has {bytes} bytes: at most 4096 are allowed for all keys and values together")]
pub struct MetadataTooLarge {
    /// Its size, keys and values together.
    pub bytes: usize,
}

/// Checks the size of metadata.
///
/// # Errors
/// [`MetadataTooLarge`] says how large it is.
pub fn check_metadata(metadata: &HashMap<String, String>) -> Result<(), MetadataTooLarge> {
    let bytes = metadata.iter().map(|(k, v)| k.len() + v.len()).sum();
    if bytes > MAX_METADATA_BYTES {
        return Err(MetadataTooLarge { bytes });
    }
    Ok(())
}
