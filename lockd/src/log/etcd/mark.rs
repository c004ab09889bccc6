//! A mark outside etcd: the place that the log had reached when this replica last looked.
//!
//! A restore may leave nothing in the cluster that shows it (see `history`): a snapshot of all members'
//! disks takes everything back that is kept there, but not a file beside lockd. A place that is lower than
//! the file's was never reached by the history that the file knows. Places of an era that was accepted lie
//! above all before, so that the file need not know which era it was written in.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{task::spawn_blocking, time::sleep};

use super::replica::Replica;
use crate::{log::LogError, record::Position};

/// How often the file is written: a restore to what etcd held this lately may go unnoticed.
const INTERVAL: Duration = Duration::from_secs(10);

fn broken(path: &Path, error: impl std::fmt::Display) -> LogError {
    LogError::Broken(format!("the mark {path:?}: {error}", path = path.display()))
}

/// Why a log that has reached only this place is not the one that the file was written for.
pub(super) fn doubt(path: &Path, reached: Position) -> Result<Option<String>, LogError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(broken(path, error)),
    };
    let marked = text.trim().parse::<u64>().map_err(|error| broken(path, error))?;
    let back = reached < Position(marked);
    Ok(back.then(|| format!("it has reached {reached} and had reached {marked}, as {path:?} says")))
}

/// Writes the file: whole or not at all.
fn write(path: &Path, reached: Position) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    writeln!(file, "{reached}")?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// Begins with a mark at this place.
pub(super) fn begin(path: &Path, reached: Position) -> Result<(), LogError> {
    write(path, reached).map_err(|error| broken(path, error))
}

/// Keeps the file up to date until the log ends.
pub(super) async fn run(replica: Arc<Replica>, path: PathBuf) {
    loop {
        sleep(INTERVAL).await;
        let Some(known) = replica.known() else { continue };
        let reached = known.history.position(replica.watermark.now().revision);
        let path = path.clone();
        let written = spawn_blocking(move || write(&path, reached)).await;
        if !matches!(written, Ok(Ok(()))) {
            tracing::warn!(?written, "the mark beside etcd can't be written");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_has_not_come_as_far_as_the_mark_is_doubted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mark");
        assert_eq!(doubt(&path, Position(0)), Ok(None));
        begin(&path, Position(7)).unwrap();
        begin(&path, Position(9)).unwrap();
        assert_eq!(doubt(&path, Position(9)), Ok(None));
        assert!(doubt(&path, Position(8)).unwrap().unwrap().contains('9'));
        fs::write(&path, "no place").unwrap();
        assert!(doubt(&path, Position(9)).is_err());
        assert!(begin(&folder.path().join("no/folder"), Position(1)).is_err());
    }
}
