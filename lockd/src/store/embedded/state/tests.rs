use proptest::prelude::*;

use super::*;
use crate::store::{Durable, Note};

const SESSION: &str = "s/a";
const QUEUE: &str = "q/orders/";

fn key(name: &str) -> Key {
    Key::new(name.as_bytes().to_vec())
}

fn ttl() -> Ttl {
    Ttl::granted(std::time::Duration::from_secs(15))
}

fn put(name: &str, lease: i64, guard: Guard) -> Op {
    Op::Put(Put { key: key(name), value: Bytes::from_static(b"v"), lease: LeaseId(lease), guard })
}

fn enqueue(name: &str, join: Join) -> Op {
    Op::Enqueue(Enqueue {
        places: vec![Place { key: key(&format!("{QUEUE}{name}")), queue: key(QUEUE) }],
        value: Bytes::from_static(b"entry"),
        session: key(SESSION),
        lease: LeaseId(1),
        join,
        durable: Durable::Before,
    })
}

fn delete(name: &str, guard: Guard) -> Op {
    Op::Delete(Delete::new(vec![(key(name), guard)]))
}

/// A session with lease 1 at revision 1.
fn with_session() -> State {
    let mut state = State::default();
    state.grant(LeaseId(1), ttl(), &mut Effects::default());
    assert_eq!(apply(&mut state, put(SESSION, 1, Guard::Absent)), Outcome::Done(Revision(1)));
    state
}

fn apply(state: &mut State, op: Op) -> Outcome {
    state.apply(op, &mut Effects::default())
}

#[test]
fn the_first_in_a_queue_is_told_so_and_a_try_finds_it_occupied() {
    let mut state = with_session();
    let first = apply(&mut state, enqueue("x", Join::IfEmpty));
    assert_eq!(first, Outcome::Enqueued { revision: Revision(2), first: true });
    let second = apply(&mut state, enqueue("y", Join::Always));
    assert_eq!(second, Outcome::Enqueued { revision: Revision(3), first: false });
    assert_eq!(apply(&mut state, enqueue("z", Join::IfEmpty)), Outcome::Occupied);
    assert_eq!(state.first(&key(QUEUE)).map(|record| record.created), Some(Revision(2)));
}

#[test]
fn an_enqueue_that_is_retried_finds_its_entry() {
    let mut state = with_session();
    apply(&mut state, enqueue("x", Join::Always));
    let Outcome::Exists(record) = apply(&mut state, enqueue("x", Join::IfEmpty)) else {
        panic!("queued twice");
    };
    assert_eq!((record.created, state.revision()), (Revision(2), Revision(2)));
}

#[test]
fn nothing_is_queued_for_a_session_that_is_gone() {
    let mut state = with_session();
    state.end_lease(LeaseId(1), &mut Effects::default());
    assert_eq!(apply(&mut state, enqueue("x", Join::Always)), Outcome::SessionGone);
}

#[test]
fn a_guard_compares_the_last_write() {
    let mut state = with_session();
    apply(&mut state, put("k", 1, Guard::Absent));
    apply(&mut state, put("k", 1, Guard::Exists));
    let stale = apply(&mut state, delete("k", Guard::At(Revision(2))));
    assert!(
        matches!(&stale, Outcome::Refused(Some(there)) if there.modified == Revision(3)),
        "{stale:?}"
    );
    assert_eq!(apply(&mut state, delete("k", Guard::At(Revision(3)))), Outcome::Done(Revision(4)));
    assert_eq!(apply(&mut state, delete("k", Guard::Exists)), Outcome::Refused(None));
}

#[test]
fn a_deletion_and_its_note_share_a_revision() {
    let mut state = with_session();
    apply(&mut state, enqueue("x", Join::Always));
    let mut effects = Effects::default();
    let note = Note { key: key("n/x"), value: Bytes::new(), lease: LeaseId(1) };
    let entry = key(&format!("{QUEUE}x"));
    let keys = vec![(entry.clone(), Guard::Exists)];
    let op = Op::Delete(Delete { note: Some(note), ..Delete::new(keys) });
    assert_eq!(state.apply(op, &mut effects), Outcome::Done(Revision(3)));
    let [(Revision(3), changes)] = effects.changes.as_slice() else { panic!("{effects:?}") };
    assert!(
        matches!(changes.as_slice(), [Change::Put(_), Change::Deleted(gone)] if *gone == entry)
    );
}

#[test]
fn a_lease_takes_all_its_keys_at_one_revision_and_no_others() {
    let mut state = with_session();
    state.grant(LeaseId(2), ttl(), &mut Effects::default());
    apply(&mut state, put("other", 2, Guard::Absent));
    apply(&mut state, put("moved", 1, Guard::Absent));
    apply(&mut state, put("moved", 2, Guard::Exists));
    apply(&mut state, enqueue("x", Join::Always));
    let mut effects = Effects::default();
    state.end_lease(LeaseId(1), &mut effects);
    let [(Revision(6), changes)] = effects.changes.as_slice() else { panic!("{effects:?}") };
    assert_eq!(changes.len(), 2);
    let left: Vec<_> = state.records().map(|record| record.key.clone()).collect();
    assert_eq!(left, [key("moved"), key("other")]);
}

#[derive(Debug, Clone)]
enum Step {
    Op(Op),
    Grant(i64),
    End(i64),
}

fn step() -> impl Strategy<Value = Step> {
    let name = || prop::sample::select(vec![SESSION, "q/orders/x", "q/orders/y", "k"]);
    let guard = prop_oneof![
        Just(Guard::Absent),
        Just(Guard::Exists),
        (0..12_u64).prop_map(|revision| Guard::At(Revision(revision))),
    ];
    let join = prop_oneof![Just(Join::Always), Just(Join::IfEmpty)];
    let put = (name(), 1..4_i64, guard.clone()).prop_map(|(name, id, guard)| put(name, id, guard));
    let noted = (name(), guard, 1..4_i64).prop_map(|(name, guard, lease)| {
        let note = Note { key: key("n/k"), value: Bytes::new(), lease: LeaseId(lease) };
        Op::Delete(Delete { note: Some(note), ..Delete::new(vec![(key(name), guard)]) })
    });
    let queued = (prop::sample::select(vec!["x", "y"]), join);
    prop_oneof![
        put.prop_map(Step::Op),
        noted.prop_map(Step::Op),
        queued.prop_map(|(name, join)| Step::Op(enqueue(name, join))),
        (1..4_i64).prop_map(Step::Grant),
        (1..4_i64).prop_map(Step::End),
    ]
}

fn run(state: &mut State, steps: Vec<Step>) -> Effects {
    let mut effects = Effects::default();
    for step in steps {
        match step {
            Step::Op(op) => drop(state.apply(op, &mut effects)),
            Step::Grant(id) => drop(state.grant(LeaseId(id), ttl(), &mut effects)),
            Step::End(id) => state.end_lease(LeaseId(id), &mut effects),
        }
    }
    effects
}

proptest! {
    #[test]
    fn undo_leaves_what_was_before(
        kept in prop::collection::vec(step(), 0..30),
        failed in prop::collection::vec(step(), 0..30),
    ) {
        let mut state = State::default();
        run(&mut state, kept);
        let before = state.clone();
        let effects = run(&mut state, failed);
        state.undo(effects);
        prop_assert_eq!(state, before);
    }

    #[test]
    fn changes_tell_the_whole_story(steps in prop::collection::vec(step(), 0..60)) {
        let mut state = State::default();
        let effects = run(&mut state, steps);
        let revisions: Vec<_> = effects.changes.iter().map(|(revision, _)| revision.0).collect();
        prop_assert_eq!(&revisions, &(1..=state.revision().0).collect::<Vec<_>>());
        let mut told = BTreeMap::new();
        for change in effects.changes.into_iter().flat_map(|(_, changes)| changes) {
            match change {
                Change::Put(record) => drop(told.insert(record.key.clone(), record)),
                Change::Deleted(key) => drop(told.remove(&key)),
            }
        }
        prop_assert_eq!(&told, &state.records);
        let leases: Vec<_> = state.leases().collect();
        let restored = State::restore(state.revision(), leases, told.into_values());
        prop_assert_eq!(restored, state);
    }
}
