//! What goes together, what waits, and what becomes of a failed commit.

use std::time::Duration;

use bytes::Bytes;
use lockd_proto::TtlRange;

use super::plan::{Kinds, Pending, Write};
use crate::store::{Delete, Durable, Enqueue, Guard, Join, Key, LeaseId, Op, Place, Profile};

struct Named(&'static str, Op);

impl Write for Named {
    fn op(&self) -> &Op {
        &self.1
    }
}

fn enqueue(name: &'static str, queue: &'static str) -> Named {
    let place = Place { key: Key::new(format!("{queue}/{name}")), queue: Key::new(queue) };
    let op = Enqueue {
        places: vec![place],
        value: Bytes::new(),
        session: Key::new("s"),
        lease: LeaseId(1),
        join: Join::Always,
        durable: Durable::Before,
    };
    Named(name, Op::Enqueue(op))
}

fn delete(name: &'static str, key: &'static str) -> Named {
    let op = Delete::new(vec![(Key::new(key), Guard::Exists)]);
    Named(name, Op::Delete(op))
}

fn profile(max_ops: usize, revision_per_op: bool) -> Profile {
    let ttl = TtlRange { min: Duration::ZERO, max: Duration::MAX };
    Profile { name: "test", ttl, max_ops, max_in_flight: 1, groups_commits: false, revision_per_op }
}

fn batches(writes: impl IntoIterator<Item = Named>, profile: &Profile) -> Vec<Vec<&'static str>> {
    let mut pending = Pending::default();
    writes.into_iter().for_each(|write| pending.push(write, profile));
    let next = || {
        let batch = pending.next_batch(profile, Kinds::All);
        pending.settled(&batch);
        Some(batch).filter(|batch| !batch.is_empty())
    };
    let names = |batch: Vec<Named>| batch.into_iter().map(|write| write.0).collect();
    std::iter::from_fn(next).map(names).collect()
}

#[test]
fn writes_leave_together_up_to_the_limit() {
    let writes = [enqueue("a", "x"), enqueue("b", "y"), delete("c", "z")];
    assert_eq!(batches(writes, &profile(2, false)), [vec!["a", "b"], vec!["c"]]);
}

#[test]
fn entries_of_one_queue_never_share_a_revision() {
    let writes = || [enqueue("a", "x"), enqueue("b", "x"), enqueue("c", "y"), enqueue("d", "x")];
    let shared = batches(writes(), &profile(9, false));
    assert_eq!(shared, [vec!["a", "c"], vec!["b"], vec!["d"]]);
    let apart = batches(writes(), &profile(9, true));
    assert_eq!(apart, [vec!["a", "b", "c", "d"]]);
}

#[test]
fn writes_of_one_key_keep_their_order() {
    let writes = [delete("a", "k"), delete("b", "k"), delete("c", "l")];
    assert_eq!(batches(writes, &profile(9, true)), [vec!["a", "c"], vec!["b"]]);
}

fn names(batch: &[Named]) -> Vec<&'static str> {
    batch.iter().map(|write| write.0).collect()
}

#[test]
fn on_a_full_store_deletes_go_alone() {
    let profile = profile(9, false);
    let mut pending = Pending::default();
    pending.push(enqueue("acquire", "x"), &profile);
    pending.push(delete("release", "y"), &profile);
    assert_eq!(names(&pending.next_batch(&profile, Kinds::Deletes)), ["release"]);
    assert_eq!(names(&pending.next_batch(&profile, Kinds::All)), ["acquire"]);
}

/// Each batch takes one, and none is looked at before its turn.
#[test]
fn many_entries_of_one_queue_keep_their_order_among_others() {
    let hot = ["a", "b", "c", "d", "e"].map(|name| enqueue(name, "hot"));
    let writes = hot.into_iter().chain([enqueue("x", "cold"), delete("y", "k")]);
    let shared = batches(writes, &profile(9, false));
    assert_eq!(shared, [vec!["a", "x", "y"], vec!["b"], vec!["c"], vec!["d"], vec!["e"]]);
}

#[test]
fn a_write_waits_for_all_before_it_of_the_same_key() {
    let profile = profile(9, false);
    let mut pending = Pending::default();
    pending.push(enqueue("acquire", "x"), &profile);
    let under_way = pending.next_batch(&profile, Kinds::All);
    pending.push(delete("first", "x/acquire"), &profile);
    assert!(pending.next_batch(&profile, Kinds::All).is_empty());
    pending.push(delete("second", "x/acquire"), &profile);
    pending.settled(&under_way);
    let first = pending.next_batch(&profile, Kinds::All);
    assert_eq!(names(&first), ["first"]);
    assert_eq!(pending.len(), 1);
    pending.settled(&first);
    assert_eq!(names(&pending.next_batch(&profile, Kinds::All)), ["second"]);
    assert!(pending.is_empty());
}
