//! Why a journal is not opened, or stops: each names a file and says what to do.

use std::io;

use super::folder::{self, Folder};
use crate::log::LogError;

/// Something is not as it was written.
pub(super) fn damaged(folder: &dyn Folder, name: &str, offset: u64, what: &str) -> LogError {
    let path = folder.path(name);
    LogError::Broken(format!(
        "\"{path}\" is damaged at byte {offset}: {what}; restore the whole folder from a backup and start with --accept-restored and a new name, or start with an empty folder, which forgets all locks"
    ))
}

/// A file is not there, and something that is there says that it was.
pub(super) fn missing(folder: &dyn Folder, name: &str, what: &str) -> LogError {
    let path = folder.path(name);
    LogError::Broken(format!(
        "\"{path}\" is missing: {what}; put it back, or restore the whole folder from a backup and start with --accept-restored and a new name"
    ))
}

/// A file can't be read or written when the journal is opened.
pub(super) fn unusable(folder: &dyn Folder, name: &str) -> impl Fn(io::Error) -> LogError {
    unusable_at(folder.path(name))
}

/// As [`unusable`], before there is a folder.
pub(super) fn unusable_at(path: String) -> impl Fn(io::Error) -> LogError {
    move |error| {
        if folder::is_full(&error) {
            return LogError::Full(format!("\"{path}\": {error}"));
        }
        LogError::Broken(format!(
            "\"{path}\" can't be used: {error}; give lockd a folder that it may read and write, with --data-dir"
        ))
    }
}

/// A write or a sync has failed while the journal was in use.
pub(super) fn failed(folder: &dyn Folder, name: &str) -> impl Fn(io::Error) -> LogError {
    let path = folder.path(name);
    move |error| {
        LogError::Broken(format!(
            "\"{path}\" can't be written: {error}; what was acknowledged is on disk, look after the disk and start lockd again"
        ))
    }
}

/// The folder was deleted or replaced under a running daemon.
pub(super) fn gone(folder: &dyn Folder, name: &str) -> LogError {
    let path = folder.path(name);
    LogError::Broken(format!(
        "\"{path}\" is gone or was replaced while lockd was using it: what is written can't be found again; put the folder back and start lockd again"
    ))
}
