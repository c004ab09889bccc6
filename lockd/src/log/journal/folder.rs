//! What a journal needs of a folder and of the files in it, so that tests can put one in its place
//! whose power fails.

use std::{io, sync::Arc};

/// A folder that this process owns. Files are named without a path.
pub(super) trait Folder: Send + Sync + 'static {
    /// A file's path, to show.
    fn path(&self, name: &str) -> String;

    /// The names of what is in it.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Opens a file that is there.
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>>;

    /// Makes an empty file, in place of one that is there.
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>>;

    /// Gives a file another name, at once for a reader and after a crash.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Deletes a file.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes names durable: what was created, renamed and removed.
    fn sync(&self) -> io::Result<()>;

    /// How much can still be written below it.
    fn free_bytes(&self) -> io::Result<u64>;

    /// Keeps other processes of this host from opening the same journal from a copy of the folder.
    /// False if one has it open.
    fn claim(&self, journal: u128) -> io::Result<bool>;

    /// Whether the folder and its lock are still at their paths, and this name is still this file's.
    fn is_in_place(&self, name: &str, file: &dyn File) -> bool;
}

/// An open file.
pub(super) trait File: Send + Sync {
    /// Its length in bytes.
    fn bytes(&self) -> io::Result<u64>;

    /// Fills a buffer from an offset on.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of a buffer at an offset.
    fn write_at(&self, buffer: &[u8], offset: u64) -> io::Result<()>;

    /// Makes durable what was written.
    fn sync(&self) -> io::Result<()>;

    /// Its device and inode. `None` once it has no name any more.
    fn identity(&self) -> io::Result<Option<(u64, u64)>>;
}

/// Reads a whole file.
pub(super) fn read(folder: &dyn Folder, name: &str) -> io::Result<Vec<u8>> {
    let file = folder.open(name)?;
    let length = usize::try_from(file.bytes()?).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    file.read_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Makes a file that is whole and durable as soon as it has its name.
pub(super) fn create_durable(
    folder: &dyn Folder,
    name: &str,
    bytes: &[u8],
) -> io::Result<Arc<dyn File>> {
    let new = format!("{name}.new");
    let file = folder.create(&new)?;
    file.write_at(bytes, 0)?;
    file.sync()?;
    folder.rename(&new, name)?;
    folder.sync()?;
    Ok(file)
}

/// Removes a file, or does nothing if it is not there.
pub(super) fn remove_if_there(folder: &dyn Folder, name: &str) -> io::Result<()> {
    match folder.remove(name) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Whether an error says that there is no room.
pub(super) fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}
