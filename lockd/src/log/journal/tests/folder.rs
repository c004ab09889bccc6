//! Real folders: who has them, and what becomes of them.

use std::path::Path;

use lockd_proto::clock::Clock;

use super::{
    super::{Journal, Options},
    story::{Read, draft, events, options, put},
};
use crate::log::{Event, Floor, Log as _, LogError};

fn opened(folder: &Path) -> Journal {
    let mut journal = Journal::open(folder, options()).unwrap();
    events(&mut journal);
    journal
}

fn refused(folder: &Path) -> String {
    match Journal::open(folder, options()) {
        Err(LogError::Broken(text)) => text,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("opened"),
    }
}

fn copy(folder: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        // The thread may be giving a spare that it has made its name.
        if let Err(error) = std::fs::copy(entry.path(), copy.path().join(entry.file_name())) {
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
        }
    }
    copy
}

#[test]
fn a_restart_delivers_what_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("made");
    let mut journal = opened(&folder);
    for _ in 0..100 {
        put(&mut journal, draft(2, vec![b'r'; 300]));
    }
    journal.sync().unwrap();
    drop(journal);
    let mut journal = Journal::open(&folder, options()).unwrap();
    let read = Read::of(events(&mut journal)).unwrap();
    assert_eq!(read.records.len(), 100);
    assert_eq!(read.records.last().unwrap().0.0, 199);
}

#[test]
fn a_checkpoint_on_a_thread_is_delivered_and_put_in_force() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = opened(dir.path());
    journal.append(0, draft(1, "one")).unwrap();
    let at = journal.sync().unwrap();
    events(&mut journal);
    journal.write_chunk(at, "state".into()).unwrap();
    journal.finish_checkpoint(at).unwrap();
    let (woken, wakes) = std::sync::mpsc::channel();
    let waker = std::task::Waker::from(std::sync::Arc::new(Wakes(woken)));
    let event = loop {
        match journal.poll_event(&mut std::task::Context::from_waker(&waker)) {
            std::task::Poll::Ready(event) => break event,
            std::task::Poll::Pending => wakes.recv().unwrap(),
        }
    };
    let Event::Checkpoint { floor, which, chunks: 1 } = event else { panic!("{event:?}") };
    let floor = Floor { at: floor, which, chunks: 1, ..Floor::default() };
    journal.trim(&floor).unwrap();
    drop(journal);
    let mut journal = Journal::open(dir.path(), options()).unwrap();
    let read = Read::of(events(&mut journal)).unwrap();
    assert_eq!((read.floor, read.records.len()), (Some(floor), 0));
}

struct Wakes(std::sync::mpsc::Sender<()>);

impl std::task::Wake for Wakes {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.send(()).unwrap_or_default();
    }
}

#[test]
fn a_second_daemon_is_refused_with_the_pid_of_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let journal = opened(dir.path());
    let (path, pid) = (dir.path().display(), std::process::id());
    assert_eq!(
        refused(dir.path()),
        format!(
            "data folder \"{path}\" is in use by another lockd (pid {pid}): stop it or choose another --data-dir"
        )
    );
    drop(journal);
    drop(opened(dir.path()));
}

/// J16
#[test]
#[cfg(target_os = "linux")]
fn a_copy_that_is_started_beside_the_journal_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let journal = opened(dir.path());
    let copy = copy(dir.path());
    let text = refused(copy.path());
    assert!(text.contains("is a copy of a journal"), "{text}");
    let id = journal.id;
    drop(journal);
    assert_eq!(opened(copy.path()).id, id);
}

/// J15
#[test]
fn a_folder_deleted_under_the_journal_stops_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = opened(dir.path());
    journal.append(0, draft(1, "one")).unwrap();
    // The thread may be making a spare.
    while std::fs::remove_dir_all(dir.path()).is_err() {}
    let path = dir.path().display().to_string();
    let gone = |error: LogError| {
        error.to_string().contains(&path) && error.to_string().contains("is gone")
    };
    assert!(journal.sync().is_err_and(gone));
    assert!(!journal.standing().is_fresh);
}

/// J15: a folder with the same files, at the same path.
#[test]
fn a_folder_replaced_under_the_journal_stops_it() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("data");
    let mut journal = opened(&folder);
    journal.append(0, draft(1, "one")).unwrap();
    let copy = copy(&folder);
    std::fs::rename(&folder, dir.path().join("away")).unwrap();
    std::fs::rename(copy.path(), &folder).unwrap();
    assert!(journal.sync().is_ok(), "its file has a name, if another one");
    assert!(journal.check().is_err_and(|error| error.to_string().contains("is gone")));
    assert!(!journal.standing().is_fresh);
}

/// J15: the pid file alone.
#[test]
fn a_lock_that_was_deleted_stops_the_journal() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = opened(dir.path());
    std::fs::remove_file(dir.path().join("lockd.pid")).unwrap();
    assert!(journal.check().is_err());
}

#[test]
fn the_store_of_an_earlier_lockd_is_refused() {
    for name in ["lockd.redb", "lockd.seq", "lockd.reserve"] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(name), "old").unwrap();
        let text = refused(dir.path());
        assert!(text.contains(name) && text.contains("an empty folder"), "{text}");
    }
}

#[test]
fn a_folder_that_can_not_be_used_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "in the way").unwrap();
    for folder in [file.clone(), file.join("below")] {
        assert!(refused(&folder).contains(&*folder.to_string_lossy()));
    }
}

#[test]
fn segments_of_another_size_are_read() {
    let dir = tempfile::tempdir().unwrap();
    for segment_bytes in [1 << 16, 1 << 12, 1 << 14] {
        let options = Options { segment_bytes, ..Options::new(Clock::system()) };
        let mut journal = Journal::open(dir.path(), options).unwrap();
        events(&mut journal);
        for _ in 0..20 {
            put(&mut journal, draft(1, vec![b'r'; 500]));
        }
        journal.sync().unwrap();
    }
    let mut journal = Journal::open(dir.path(), options()).unwrap();
    assert_eq!(Read::of(events(&mut journal)).unwrap().records.len(), 60);
}
