//! Writes and syncs that fail: nothing goes out any more, and a restart makes nothing up.

use super::{
    machine::{Fault, Machine},
    story::{Story, draft, events, next, open, put, reopen},
};
use crate::{
    log::{Event, Floor, Log as _, LogError},
    record::Position,
};

/// J12, J13: the failure of each operation of a story, a restart, and then the power as well.
#[test]
fn after_any_failure_what_a_restart_delivers_is_durable() {
    for fault in [Fault::SyncAt as fn(u64) -> Fault, Fault::WriteAt] {
        for seed in 0..4 {
            for at in 1.. {
                let mut story = Story::begin(seed);
                story.machine.fail(fault(at));
                let mut failed = story.open();
                for _ in 0..30 {
                    failed = failed.and_then(|()| story.act());
                }
                if failed.is_ok() && story.machine.operations() < at {
                    break;
                }
                if let Some(mut journal) = story.journal.take().filter(|_| failed.is_err()) {
                    has_failed(&mut journal, &story.machine);
                }
                drop(story.journal.take());
                story.machine.kill();
                story.open().unwrap();
                story.journal = None;
                story.machine.lose_power();
                story.open().unwrap();
            }
        }
    }
}

/// J13
fn has_failed(journal: &mut super::super::Journal, machine: &Machine) {
    let before = machine.counts();
    assert!(!journal.standing().is_fresh);
    assert!(matches!(events(journal).as_slice(), [Event::Failed(_)] | []));
    assert!(matches!(journal.append(0, draft(1, "late")), Err(LogError::Broken(_))));
    assert!(matches!(journal.sync(), Err(LogError::Broken(_))));
    assert!(matches!(journal.settle(), Err(LogError::Broken(_))));
    assert!(matches!(journal.write_chunk(Position(1), "late".into()), Err(LogError::Broken(_))));
    assert!(matches!(journal.finish_checkpoint(Position(1)), Err(LogError::Broken(_))));
    journal.barrier(1);
    let floor = Floor { at: Position(1), ..Floor::default() };
    assert!(matches!(journal.trim(&floor), Err(LogError::Broken(_))));
    assert_eq!((next(journal), machine.counts()), (None, before));
}

/// J12: the pages are in the cache and clean, and not on the disk.
#[test]
fn what_a_failed_sync_left_in_the_cache_is_written_again() {
    let machine = Machine::new(3);
    let (mut journal, _) = reopen(&machine).unwrap();
    journal.append(0, draft(1, "one")).unwrap();
    events(&mut journal);
    journal.sync().unwrap();
    journal.append(0, draft(1, "two")).unwrap();
    machine.fail(Fault::SyncAt(machine.operations() + 2));
    assert!(matches!(journal.sync(), Err(LogError::Broken(text)) if text.contains("segment-")));
    let left = events(&mut journal);
    assert!(matches!(left.as_slice(), [Event::Failed(_)]), "J13: {left:?}");
    drop(journal);
    machine.kill();
    let (journal, read) = reopen(&machine).unwrap();
    assert_eq!(read.payloads(), ["one", "two"]);
    drop(journal);
    machine.lose_power();
    assert_eq!(reopen(&machine).unwrap().1.payloads(), ["one", "two"]);
}

#[test]
fn a_group_takes_one_write_and_one_sync_and_then_the_mark() {
    let machine = Machine::new(1);
    let (mut journal, _) = reopen(&machine).unwrap();
    for _ in 0..3 {
        for _ in 0..20 {
            put(&mut journal, draft(1, "record"));
        }
        let (writes, syncs) = machine.counts();
        let durable = journal.sync().unwrap();
        assert_eq!(machine.counts(), (writes + 2, syncs + 1));
        assert_eq!(journal.sync(), Ok(durable), "nothing is left to sync");
        assert_eq!(machine.counts(), (writes + 2, syncs + 1));
        assert_eq!(journal.settle(), Ok(durable));
        assert_eq!(machine.counts(), (writes + 2, syncs + 2), "the mark, once");
        journal.settle().unwrap();
        assert_eq!(machine.counts(), (writes + 2, syncs + 2));
    }
}

/// J15
#[test]
fn a_folder_that_is_gone_stops_the_journal() {
    let machine = Machine::new(1);
    let (mut journal, _) = reopen(&machine).unwrap();
    journal.append(0, draft(1, "one")).unwrap();
    journal.sync().unwrap();
    assert!(journal.check().is_ok());
    machine.is_gone();
    let gone = |error| matches!(error, LogError::Broken(text) if text.contains("is gone"));
    assert!(journal.check().is_err_and(gone));
    assert!(!journal.standing().is_fresh);
    assert!(journal.sync().is_err_and(gone));
}

/// J15: an unlinked file syncs well.
#[test]
fn a_segment_that_was_unlinked_acknowledges_nothing() {
    let machine = Machine::new(1);
    let (mut journal, _) = reopen(&machine).unwrap();
    machine.delete(&super::super::segment::name(1));
    journal.append(0, draft(1, "one")).unwrap();
    let gone = |error| matches!(error, LogError::Broken(text) if text.contains("is gone"));
    assert!(journal.sync().is_err_and(gone));
}

/// J4b: no more than an opening skips is ever appended without a sync.
#[test]
fn what_is_not_durable_is_bounded() {
    let machine = Machine::new(1);
    let options = super::super::Options { segment_bytes: 1 << 22, ..super::story::options() };
    let mut journal = super::story::open_with(&machine, options).unwrap();
    events(&mut journal);
    let (_, syncs) = machine.counts();
    for _ in 0..100 {
        put(&mut journal, draft(1024, "many"));
    }
    assert!(machine.counts().1 > syncs, "it never syncs by itself");
}

#[test]
fn nothing_is_appended_before_the_journal_was_read() {
    let machine = Machine::new(1);
    let mut journal = open(&machine).unwrap();
    journal.barrier(3);
    assert!(matches!(journal.append(0, draft(1, "early")), Err(LogError::Unavailable(_))));
    let read = events(&mut journal);
    assert!(matches!(read.as_slice(), [Event::Reset, Event::Live(_), Event::Barrier(3)]));
    assert!(journal.append(0, draft(1, "in time")).is_ok());
}
