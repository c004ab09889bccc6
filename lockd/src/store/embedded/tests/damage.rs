//! Damaged files: what was acknowledged is there, or the file is refused by name.

use super::{durability::killed, *};
use crate::store::embedded::{disk::Disk, state::State};

/// A folder as a kill leaves it, and what it holds.
async fn folder() -> (tempfile::TempDir, State) {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::open(dir.path()).await.unwrap();
    running.has_session().await;
    for start in (0..100).step_by(10) {
        running.store.commit((start..start + 10).map(enqueue).collect()).await.unwrap();
    }
    running.commit(delete(50)).await.unwrap();
    let after_kill = killed(dir.path());
    running.close().await;
    let (_, state) = Disk::open(killed(after_kill.path()).path(), Gauge::default()).unwrap();
    assert_eq!(state.records().count(), 100);
    (after_kill, state)
}

fn opens(dir: &Path) -> Result<State, String> {
    let opened = std::panic::catch_unwind(|| Disk::open(dir, Gauge::default()));
    let opened = opened.map_err(|_| "it panicked: the caller names the file".to_owned())?;
    match opened {
        Ok((_, state)) => Ok(state),
        Err(error) => {
            let text = error.to_string();
            assert!(text.contains("lockd.redb"), "{text}");
            Err(text)
        }
    }
}

/// Numbers that look random and are the same in every run.
fn numbers(seed: u64) -> impl FnMut(usize) -> usize {
    let mut state = seed;
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % u64::try_from(below).unwrap()).unwrap()
    }
}

/// redb falls back to its commit before the last when the header's newer slot is damaged: in
/// a trial without `lockd.seq` 83 of 600 flipped bits lost acknowledged writes.
#[tokio::test]
async fn a_flipped_bit_is_refused_or_changes_nothing() {
    const HEADER: usize = 320;
    let (dir, state) = folder().await;
    let data = dir.path().join("lockd.redb");
    let seq = std::fs::read(dir.path().join("lockd.seq")).unwrap();
    let whole = std::fs::read(&data).unwrap();
    let mut number = numbers(0x10cd);
    let (mut exact, mut refused) = (0, 0);
    for turn in 0..400 {
        let mut damaged = whole.clone();
        let at = number(if turn % 2 == 0 { HEADER } else { whole.len() });
        let bit = number(8);
        damaged[at] ^= 1 << bit;
        std::fs::write(&data, damaged).unwrap();
        std::fs::write(dir.path().join("lockd.seq"), &seq).unwrap();
        match opens(dir.path()) {
            Ok(read) => {
                assert_eq!(read, state, "bit {bit} of byte {at}");
                exact += 1;
            }
            Err(_) => refused += 1,
        }
    }
    assert!(exact > 0 && refused > 0, "{exact} exact, {refused} refused");
}

#[tokio::test]
async fn a_file_that_was_cut_off_is_refused() {
    let (dir, _) = folder().await;
    let data = dir.path().join("lockd.redb");
    let whole = std::fs::read(&data).unwrap();
    for length in [0, 1, 100, 4096, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&data, &whole[..length]).unwrap();
        assert!(opens(dir.path()).is_err(), "cut to {length} bytes");
    }
}

#[tokio::test]
async fn an_older_file_put_back_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::open(dir.path()).await.unwrap();
    running.has_session().await;
    let older = killed(dir.path());
    running.commit(enqueue(1)).await.unwrap();
    running.close().await;
    std::fs::copy(older.path().join("lockd.redb"), dir.path().join("lockd.redb")).unwrap();
    let refused = opens(dir.path()).unwrap_err();
    assert!(refused.contains("acknowledged") && refused.contains("lockd.seq"), "{refused}");
    std::fs::remove_file(dir.path().join("lockd.seq")).unwrap();
    assert_eq!(opens(dir.path()).unwrap().revision(), Revision(1));
}

#[tokio::test]
async fn a_file_that_is_gone_is_missed() {
    let (dir, _) = folder().await;
    std::fs::remove_file(dir.path().join("lockd.redb")).unwrap();
    assert!(opens(dir.path()).unwrap_err().contains("it is missing"));
}

#[tokio::test]
async fn a_damaged_number_beside_a_good_file_does_no_harm() {
    let (dir, state) = folder().await;
    for note in [&b""[..], b"short", &[0xff; 16]] {
        std::fs::write(dir.path().join("lockd.seq"), note).unwrap();
        assert_eq!(opens(dir.path()).as_ref(), Ok(&state));
    }
}

/// A power failure may keep any part of the last commit's writes: here, all but some pages.
#[tokio::test]
async fn a_torn_last_write_is_rolled_back() {
    const PAGE: usize = 4096;
    let dir = tempfile::tempdir().unwrap();
    let running = Running::open(dir.path()).await.unwrap();
    running.has_session().await;
    running.store.commit((0..100).map(enqueue).collect()).await.unwrap();
    let before = killed(dir.path());
    running.store.commit((100..130).map(enqueue).collect()).await.unwrap();
    let after = killed(dir.path());
    running.close().await;
    let [old, new] =
        [&before, &after].map(|dir| std::fs::read(dir.path().join("lockd.redb")).unwrap());
    let pages = (PAGE..new.len()).step_by(PAGE);
    let written: Vec<_> = pages
        .filter(|at| old.get(*at..at + PAGE).is_none_or(|page| page != &new[*at..at + PAGE]))
        .collect();
    assert!(!written.is_empty());
    for lost in written {
        let mut torn = new.clone();
        let page = old.get(lost..lost + PAGE).unwrap_or(&[0; PAGE]);
        torn[lost..lost + PAGE].copy_from_slice(page);
        // The commit was not acknowledged, so the number is the one before it.
        let folder = killed(before.path());
        std::fs::write(folder.path().join("lockd.redb"), torn).unwrap();
        let revision = opens(folder.path()).unwrap().revision();
        assert!([Revision(101), Revision(131)].contains(&revision), "{revision:?}");
    }
}
