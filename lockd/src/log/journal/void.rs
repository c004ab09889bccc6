//! A folder that keeps nothing: the journal of a daemon in memory.

use std::{io, sync::Arc};

use super::folder::{File, Folder};

/// Takes everything, and gives nothing back.
pub(super) struct Void;

impl Folder for Void {
    fn path(&self, name: &str) -> String {
        name.to_owned()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn open(&self, _: &str) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(Self))
    }

    fn create(&self, _: &str) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(Self))
    }

    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn remove(&self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(u64::MAX)
    }

    fn claim(&self, _: u128) -> io::Result<bool> {
        Ok(true)
    }

    fn is_in_place(&self, _: &str, _: &dyn File) -> bool {
        true
    }
}

impl File for Void {
    fn bytes(&self) -> io::Result<u64> {
        Ok(0)
    }

    fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<()> {
        Ok(())
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn identity(&self) -> io::Result<Option<(u64, u64)>> {
        Ok(Some((0, 0)))
    }
}
