//! A Unix socket, and the file that it is known by.

use std::{
    io,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};

use tokio::net::UnixListener;

use super::SidecarError;

/// The file. Dropping it removes it.
#[derive(Debug)]
pub(super) struct Socket(PathBuf);

impl Socket {
    /// Listens at a path. A file that was left there by one that is dead is replaced.
    pub(super) fn bind(path: &Path) -> Result<(UnixListener, Self), SidecarError> {
        let listener = match UnixListener::bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_dead(path) => {
                std::fs::remove_file(path).and_then(|()| UnixListener::bind(path))
            }
            listener => listener,
        };
        let unusable = |source| SidecarError::Socket { path: path.display().to_string(), source };
        listener.map(|listener| (listener, Self(path.to_owned()))).map_err(unusable)
    }
}

/// Whether no process listens to a socket any more.
fn is_dead(path: &Path) -> bool {
    UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::warn!(%error, path = %self.0.display(), "the socket's file can't be removed");
        }
    }
}
