//! What the view tells whom, step by step, and that a snapshot and the changes it stands for
//! lead to the same state.

use bytes::Bytes;
use lockd_proto::{LockName, Namespace};
use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::{
    keys,
    store::{Change, Key, Record},
};

fn lock(n: u8) -> LockId {
    let name = LockName::parse(format!("lock-{n}")).expect("a valid name");
    LockId::new(&Namespace::default(), &name)
}

fn session(n: u8) -> SessionId {
    SessionId::from_bytes([n; 16])
}

fn entry_id(owner: u8, request: u8) -> EntryId {
    EntryId { session: session(owner), request: RequestId::from_bytes([request; 16]) }
}

fn record(key: Key, at: u64, value: &[u8]) -> Record {
    let value = Bytes::copy_from_slice(value);
    Record { key, value, created: Revision(at), modified: Revision(at), lease: LeaseId(1) }
}

fn put_entry(at: u64, on: u8, id: EntryId) -> Change {
    Change::Put(record(keys::entry(&lock(on), id), at, b""))
}

fn put_session(at: u64, n: u8) -> Change {
    Change::Put(record(keys::session(session(n)), at, b""))
}

fn granted<E>(event: Result<SessionEvent, E>) -> Option<Revision> {
    match event {
        Ok(SessionEvent::Granted(entry)) => Some(entry.created),
        _ => None,
    }
}

fn view() -> View {
    View::new(Clock::system())
}

fn changes(view: &View, at: u64, changes: Vec<Change>) {
    view.apply([Feed::Changes { revision: Revision(at), changes }]);
}

#[test]
fn the_next_in_line_hears_of_its_grant() {
    let view = view();
    let mut events = view.subscribe(session(2), 8);
    changes(&view, 1, vec![put_entry(1, 0, entry_id(1, 1))]);
    changes(&view, 2, vec![put_entry(2, 0, entry_id(2, 2))]);
    assert!(matches!(view.place(&lock(0), Revision(2)), Place::Waiting(Ahead { count: 1, .. })));
    assert!(events.try_recv().is_err(), "a waiter is not told that it waits");
    changes(&view, 3, vec![Change::Deleted(keys::entry(&lock(0), entry_id(1, 1)))]);
    let event = events.try_recv();
    assert_eq!(granted(event), Some(Revision(2)));
    assert!(matches!(view.place(&lock(0), Revision(2)), Place::Held));
}

#[test]
fn a_session_that_dies_with_the_holder_is_never_granted_anything() {
    let view = view();
    let mut dying = view.subscribe(session(1), 8);
    let mut living = view.subscribe(session(2), 8);
    changes(&view, 1, vec![put_session(1, 1), put_entry(1, 0, entry_id(1, 1))]);
    changes(&view, 2, vec![put_entry(2, 0, entry_id(1, 2))]);
    changes(&view, 3, vec![put_entry(3, 0, entry_id(2, 3))]);
    while dying.try_recv().is_ok() {}
    let gone = [
        keys::entry(&lock(0), entry_id(1, 1)),
        keys::entry(&lock(0), entry_id(1, 2)),
        keys::session(session(1)),
    ];
    changes(&view, 4, gone.map(Change::Deleted).to_vec());
    assert!(matches!(dying.try_recv(), Ok(SessionEvent::Ended)));
    assert!(dying.try_recv().is_err(), "nothing comes after the end");
    assert_eq!(granted(living.try_recv()), Some(Revision(3)));
}

#[test]
fn a_forced_release_comes_with_its_reason() {
    let view = view();
    let mut events = view.subscribe(session(1), 8);
    changes(&view, 1, vec![put_entry(1, 0, entry_id(1, 1))]);
    let note = NoteRecord { text: "stuck since monday".to_owned(), deadlock: None };
    let note = Change::Put(record(keys::note(entry_id(1, 1)), 2, &note.encode_to_vec()));
    let gone = Change::Deleted(keys::entry(&lock(0), entry_id(1, 1)));
    changes(&view, 2, vec![gone, note]);
    assert_eq!(granted(events.try_recv()), Some(Revision(1)));
    let Ok(SessionEvent::Removed(_, Removal::Forced { reason })) = events.try_recv() else {
        panic!("the holder hears of its loss");
    };
    assert_eq!(reason, "stuck since monday");
}

#[test]
fn a_reader_that_is_too_slow_is_cut_off_and_holds_up_nobody() {
    let view = view();
    let mut slow = view.subscribe(session(1), 1);
    let mut quick = view.subscribe(session(1), 8);
    for at in 1..4 {
        changes(&view, at, vec![put_session(at, 1)]);
    }
    assert!(matches!(slow.try_recv(), Ok(SessionEvent::Attached(Revision(1)))));
    assert!(matches!(slow.try_recv(), Err(tokio::sync::mpsc::error::TryRecvError::Disconnected)));
    assert_eq!(std::iter::from_fn(|| quick.try_recv().ok()).count(), 3);
}

#[tokio::test]
async fn an_observer_hears_of_each_changed_lock_once() {
    let view = view();
    let prefix = keys::prefix_path(&Namespace::default(), "lock-1");
    let mut observer = view.observe(Scope::Prefix(prefix));
    changes(&view, 1, vec![put_entry(1, 1, entry_id(1, 1))]);
    changes(&view, 2, vec![put_entry(2, 2, entry_id(1, 2))]);
    changes(&view, 3, vec![Change::Deleted(keys::entry(&lock(1), entry_id(1, 1)))]);
    assert_eq!(observer.changed().await.into_iter().collect::<Vec<_>>(), [lock(1)]);
}

#[tokio::test]
async fn a_view_is_stale_until_its_first_snapshot() {
    let view = view();
    assert!(view.is_stale());
    view.apply([Feed::Snapshot { revision: Revision(5), records: vec![] }]);
    assert!(!view.is_stale());
    view.reached(Revision(5)).await;
}

#[test]
fn a_listing_keeps_to_its_prefix_and_goes_on_where_it_stopped() {
    let view = view();
    for n in 1..=5 {
        changes(&view, n.into(), vec![put_entry(n.into(), n, entry_id(1, n))]);
    }
    let prefix = keys::prefix_path(&Namespace::default(), "lock-");
    let names = |queues: Vec<QueueView>| {
        queues.iter().map(|queue| queue.lock.name().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(view.list(&prefix, None, 2)), ["lock-1", "lock-2"]);
    let after = keys::prefix_path(&Namespace::default(), "lock-2");
    assert_eq!(names(view.list(&prefix, Some(&after), 9)), ["lock-3", "lock-4", "lock-5"]);
    let other = keys::prefix_path(&Namespace::parse("other").expect("valid"), "");
    assert!(view.list(&other, None, 9).is_empty());
}

/// A store of entries that are made and taken out at random.
fn history() -> impl Strategy<Value = Vec<(u8, u8, bool)>> {
    proptest::collection::vec((0..3u8, 0..6u8, any::<bool>()), 0..60)
}

proptest! {
    #[test]
    fn a_snapshot_stands_for_the_changes_that_were_missed(
        history in history(),
        missed_from in 0..60usize,
    ) {
        let (followed, resumed) = (view(), view());
        let mut store = std::collections::BTreeMap::new();
        for (step, (on, n, make)) in history.into_iter().enumerate() {
            let at = step as u64 + 1;
            let key = keys::entry(&lock(on), entry_id(n % 2, n));
            let elsewhere = store.keys().any(|there: &Key| {
                matches!(keys::parse(there), Some(keys::Named::Entry(_, id)) if id == entry_id(n % 2, n))
            });
            let change = if make && !elsewhere {
                let made = record(key.clone(), at, b"");
                store.insert(key, made.clone());
                Change::Put(made)
            } else if store.remove(&key).is_some() {
                Change::Deleted(key)
            } else {
                continue;
            };
            changes(&followed, at, vec![change.clone()]);
            if step < missed_from {
                changes(&resumed, at, vec![change]);
            }
        }
        let revision = followed.revision();
        let records = store.values().cloned().collect();
        resumed.apply([Feed::Snapshot { revision, records }]);
        let all = keys::prefix_path(&Namespace::default(), "");
        let entries = |view: &View| {
            let queues = view.list(&all, None, usize::MAX);
            queues
                .iter()
                .map(|queue| {
                    let tokens = queue.entries.iter().map(|found| found.entry.created);
                    (queue.lock.clone(), tokens.collect::<Vec<_>>())
                })
                .collect::<Vec<_>>()
        };
        prop_assert_eq!(entries(&followed), entries(&resumed));
        prop_assert_eq!(followed.counts(), resumed.counts());
    }
}
