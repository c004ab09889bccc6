//! A folder of the file system, which this process has for itself.

use std::{
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::FileExt as _,
    },
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use rustix::{
    fs::{AtFlags, Dir, FlockOperation, Mode, OFlags},
    io::Errno,
};

use super::{
    folder::{File, Folder},
    refusal,
};
use crate::log::LogError;

const LOCK: &str = "lockd.pid";

/// Files of the store that lockd had before.
const BEFORE: [&str; 3] = ["lockd.redb", "lockd.seq", "lockd.reserve"];

/// A folder that is locked as long as this lives.
pub(super) struct Disk {
    path: PathBuf,
    folder: OwnedFd,
    lock: LockedFile,
    /// Bound as long as this lives.
    #[cfg(target_os = "linux")]
    socket: OnceLock<std::os::unix::net::UnixDatagram>,
}

struct LockedFile(std::fs::File);

impl Disk {
    /// Takes possession of a folder, which is made if it is not there.
    pub(super) fn open(path: &Path) -> Result<Self, LogError> {
        let unusable = |path: &Path| refusal::unusable_at(path.display().to_string());
        std::fs::create_dir_all(path).map_err(unusable(path))?;
        let before = BEFORE.into_iter().find(|name| path.join(name).exists());
        if let Some(before) = before {
            return Err(LogError::Broken(format!(
                "\"{}\" holds the store of an earlier lockd ({before}), which this one can't read: let its locks end under that version, then give this one an empty folder, with --data-dir",
                path.display()
            )));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(path, flags, Mode::empty());
        let folder = folder.map_err(|errno| unusable(path)(errno.into()))?;
        let lock = lock(path, &path.join(LOCK), unusable(&path.join(LOCK)))?;
        Ok(Self {
            path: path.to_owned(),
            folder,
            lock,
            #[cfg(target_os = "linux")]
            socket: OnceLock::new(),
        })
    }

    fn open_file(&self, name: &str, flags: OFlags) -> io::Result<Arc<dyn File>> {
        let mode = Mode::RUSR | Mode::WUSR;
        let flags = flags | OFlags::RDWR | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.folder, name, flags, mode)?;
        Ok(Arc::new(LockedFile(file.into())))
    }
}

/// Locks a folder by a file in it that says which process has it.
fn lock(
    folder: &Path,
    path: &Path,
    unusable: impl Fn(io::Error) -> LogError,
) -> Result<LockedFile, LogError> {
    let mut options = std::fs::OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).open(path);
    let file = file.map_err(&unusable)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let pid = std::fs::read_to_string(path).map_err(&unusable)?;
            return Err(LogError::Broken(format!(
                "data folder \"{}\" is in use by another lockd (pid {}): stop it or choose another --data-dir",
                folder.display(),
                pid.trim()
            )));
        }
        Err(errno) => return Err(unusable(errno.into())),
    }
    // Over what is there and of the same length, so that it needs no room on a disk that is full.
    let pid = format!("{:<15}\n", std::process::id());
    match file.write_all_at(pid.as_bytes(), 0) {
        Err(error) if !super::folder::is_full(&error) => Err(unusable(error)),
        Ok(()) | Err(_) => Ok(LockedFile(file)),
    }
}

impl Folder for Disk {
    fn path(&self, name: &str) -> String {
        if name.is_empty() {
            return self.path.display().to_string();
        }
        self.path.join(name).display().to_string()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.folder)? {
            let entry = entry?;
            names.extend(entry.file_name().to_str().ok().map(str::to_owned));
        }
        Ok(names)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.open_file(name, OFlags::empty())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.open_file(name, OFlags::CREATE | OFlags::TRUNC)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.folder, from, &self.folder, to)?)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.folder, name, AtFlags::empty())?)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.folder)?)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let found = rustix::fs::fstatvfs(&self.folder)?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }

    /// A lock on a file does not cover a copy of the file; a socket's name covers the whole machine,
    /// as far as it has one network (J16).
    #[cfg(target_os = "linux")]
    fn claim(&self, journal: u128) -> io::Result<bool> {
        use std::os::{
            linux::net::SocketAddrExt as _,
            unix::net::{SocketAddr, UnixDatagram},
        };
        let name = format!("lockd-journal-{journal:032x}");
        match UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name)?) {
            Ok(socket) => Ok(self.socket.set(socket).is_ok()),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(false),
            Err(error) => Err(error),
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn claim(&self, _: u128) -> io::Result<bool> {
        Ok(true)
    }

    fn is_in_place(&self, name: &str, file: &dyn File) -> bool {
        let at_path = rustix::fs::stat(&self.path).map(|found| (found.st_dev, found.st_ino));
        let open = rustix::fs::fstat(&self.folder).map(|found| (found.st_dev, found.st_ino));
        let is_there = at_path.is_ok() && at_path == open;
        is_there && self.holds(LOCK, &self.lock) && self.holds(name, file)
    }
}

impl Disk {
    fn holds(&self, name: &str, file: &dyn File) -> bool {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let Ok(found) = rustix::fs::statat(&self.folder, name, flags) else { return false };
        file.identity().is_ok_and(|identity| identity == Some((found.st_dev, found.st_ino)))
    }
}

impl File for LockedFile {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn write_at(&self, buffer: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(buffer, offset)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fdatasync(self.0.as_fd())?)
    }

    fn identity(&self) -> io::Result<Option<(u64, u64)>> {
        #[cfg(target_os = "linux")]
        if let Some(identity) = identity_without_times(&self.0)? {
            return Ok(identity);
        }
        let found = rustix::fs::fstat(&self.0)?;
        Ok((found.st_nlink > 0).then_some((found.st_dev, found.st_ino)))
    }
}

/// A file's identity by a call that does not ask for its times. If it did, the kernel would give the
/// next write a time of its own, and each sync would write the inode as well, which was
/// measured to take half as long again. `None` where there is no such call.
#[cfg(target_os = "linux")]
fn identity_without_times(file: &std::fs::File) -> io::Result<Option<Option<(u64, u64)>>> {
    use rustix::fs::{StatxFlags, makedev, statx};
    match statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::NLINK | StatxFlags::INO) {
        Ok(found) => {
            let device = makedev(found.stx_dev_major, found.stx_dev_minor);
            Ok(Some((found.stx_nlink > 0).then_some((device, found.stx_ino))))
        }
        // Old kernels, and containers that do not let the call through.
        Err(Errno::NOSYS | Errno::PERM) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}
