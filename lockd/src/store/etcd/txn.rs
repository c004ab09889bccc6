//! A batch as one etcd transaction: one nested transaction an operation, each with compares
//! of its own, all under one compare of the fence.
//!
//! The fence is a key that nobody reads for its value. Every batch compares its revision; an
//! attempt whose outcome is unknown is followed by a write of the fence. Once that write is
//! known, the attempt was applied before it or never will be, however long a frozen member
//! sits on it. Only then is the batch tried again, and what the lost attempt did is found by
//! its keys.

use etcd_client::{
    Compare, CompareOp, GetOptions, KeyValue, PutOptions, Txn, TxnOp, TxnOpResponse, TxnResponse,
};

use super::Keyspace;
use crate::store::{
    Delete, Enqueue, Guard, Join, Key, LeaseId, Op, Outcome, Put, Record, Revision,
};

/// A batch that compares the fence.
pub(super) fn batch(keyspace: &Keyspace, ops: &[Op], fence: i64) -> Txn {
    let ops: Vec<_> = ops.iter().map(|op| TxnOp::txn(nested(keyspace, op))).collect();
    Txn::new()
        .when([Compare::mod_revision(keyspace.fence(), CompareOp::Equal, fence)])
        .and_then(ops)
        .or_else([TxnOp::get(keyspace.fence(), None)])
}

/// A write of the fence. Nested, since etcd counts only the outer puts of a transaction
/// against its quota: what is under way has to be settled on a full disk too.
pub(super) fn raise(keyspace: &Keyspace) -> Txn {
    let put = TxnOp::put(keyspace.fence(), "", None);
    Txn::new().and_then([TxnOp::txn(Txn::new().and_then([put]))])
}

/// What became of a batch.
pub(super) enum Answer {
    /// One outcome an operation.
    Outcomes(Vec<Outcome>),
    /// Nothing was done: the fence is at this revision.
    Fenced(i64),
}

/// Reads the answer to a batch. `again` when an earlier attempt may have done it.
pub(super) fn read(keyspace: &Keyspace, ops: &[Op], response: &TxnResponse, again: bool) -> Answer {
    let responses = response.op_responses();
    if !response.succeeded() {
        return Answer::Fenced(found(responses.first()).map_or(0, KeyValue::mod_revision));
    }
    let revision = revision(response.header().map_or(0, |header| header.revision()));
    let outcomes = ops.iter().zip(&responses).map(|(op, response)| {
        let TxnOpResponse::Txn(response) = response else { return Outcome::Refused(None) };
        let outcome = outcome(keyspace, op, response, revision);
        if again { own(op, outcome, revision) } else { outcome }
    });
    Answer::Outcomes(outcomes.collect())
}

fn nested(keyspace: &Keyspace, op: &Op) -> Txn {
    match op {
        Op::Enqueue(op) => enqueue(keyspace, op),
        Op::Put(op) => put(keyspace, op),
        Op::Delete(op) => delete(keyspace, op),
    }
}

fn absent(key: Vec<u8>) -> Compare {
    Compare::create_revision(key, CompareOp::Equal, 0)
}

fn exists(key: Vec<u8>) -> Compare {
    Compare::create_revision(key, CompareOp::Greater, 0)
}

fn write(key: Vec<u8>, value: &[u8], lease: LeaseId) -> TxnOp {
    TxnOp::put(key, value, Some(PutOptions::new().with_lease(lease.0)))
}

/// An entry joins its queues whatever is in them: the watch tells what that is. Only a try asks,
/// since etcd looks at all that was ever under a prefix and is not compacted yet.
///
/// A put under a lease that is gone would fail the whole batch. The session's key is attached
/// to the session's lease, so it stands for it.
fn enqueue(keyspace: &Keyspace, op: &Enqueue) -> Txn {
    let keys: Vec<_> = op.places.iter().map(|place| keyspace.full(&place.key)).collect();
    let session = keyspace.full(&op.session);
    let empty = match op.join {
        Join::Always => &[],
        Join::IfEmpty => op.places.as_slice(),
    };
    let empty = empty.iter().map(|place| absent(keyspace.full(&place.queue)).with_prefix());
    let free = keys.iter().map(|key| absent(key.clone()));
    let may_join: Vec<_> = [exists(session.clone())].into_iter().chain(free).chain(empty).collect();
    let own = keys.first().map(|key| TxnOp::get(key.clone(), None));
    let session = TxnOp::get(session, Some(GetOptions::new().with_keys_only()));
    let look: Vec<_> = own.into_iter().chain([session]).collect();
    let entries = keys.into_iter().map(|key| write(key, &op.value, op.lease));
    Txn::new().when(may_join).and_then(entries.collect::<Vec<_>>()).or_else(look)
}

fn put(keyspace: &Keyspace, op: &Put) -> Txn {
    let key = keyspace.full(&op.key);
    Txn::new()
        .when([guard(key.clone(), op.guard)])
        .and_then([write(key.clone(), &op.value, op.lease)])
        .or_else([TxnOp::get(key, None)])
}

fn delete(keyspace: &Keyspace, op: &Delete) -> Txn {
    let keys = || op.keys.iter().map(|(key, at)| (keyspace.full(key), *at));
    let there = keys().map(|(key, at)| match at {
        // Nothing is deleted that is not there.
        Guard::Absent => guard(key, Guard::At(Revision(0))),
        at => guard(key, at),
    });
    let gone = keys().map(|(key, _)| TxnOp::delete(key, None));
    let note = op.note.as_ref();
    let note = note.map(|note| write(keyspace.full(&note.key), &note.value, note.lease));
    let gone: Vec<_> = gone.chain(note).collect();
    let look: Vec<_> = keys().take(1).map(|(key, _)| TxnOp::get(key, None)).collect();
    Txn::new().when(there.collect::<Vec<_>>()).and_then(gone).or_else(look)
}

fn guard(key: Vec<u8>, guard: Guard) -> Compare {
    match guard {
        Guard::Absent => absent(key),
        Guard::Exists => exists(key),
        Guard::At(at) => Compare::mod_revision(key, CompareOp::Equal, etcd_revision(at)),
        Guard::Made(at) => Compare::create_revision(key, CompareOp::Equal, etcd_revision(at)),
    }
}

/// A revision that etcd can't have, or that means "absent" to it, is one that no key is at.
fn etcd_revision(at: Revision) -> i64 {
    i64::try_from(at.0).ok().filter(|at| *at > 0).unwrap_or(i64::MAX)
}

fn outcome(keyspace: &Keyspace, op: &Op, response: &TxnResponse, revision: Revision) -> Outcome {
    let responses = response.op_responses();
    match (op, response.succeeded()) {
        (Op::Enqueue(op), true) => Outcome::Enqueued { revision, first: op.join == Join::IfEmpty },
        (Op::Enqueue(_), false) => looked(keyspace, &responses),
        (Op::Put(_) | Op::Delete(_), true) => Outcome::Done(revision),
        (Op::Put(_) | Op::Delete(_), false) => {
            Outcome::Refused(found(responses.first()).and_then(|kv| record(keyspace, kv)))
        }
    }
}

/// What kept an entry out: itself, the end of its session, or the queue.
fn looked(keyspace: &Keyspace, look: &[TxnOpResponse]) -> Outcome {
    let own = found(look.first()).and_then(|kv| record(keyspace, kv));
    match (own, found(look.get(1))) {
        (Some(own), _) => Outcome::Exists(own),
        (None, None) => Outcome::SessionGone,
        (None, Some(_)) => Outcome::Occupied,
    }
}

/// Recognises what an earlier attempt of the same batch has done.
fn own(op: &Op, outcome: Outcome, revision: Revision) -> Outcome {
    match (op, outcome) {
        (Op::Delete(_), Outcome::Refused(None)) => Outcome::Done(revision),
        (Op::Put(op), Outcome::Refused(Some(there)))
            if there.value == op.value && there.lease == op.lease =>
        {
            Outcome::Done(there.modified)
        }
        (_, outcome) => outcome,
    }
}

fn found(response: Option<&TxnOpResponse>) -> Option<&KeyValue> {
    match response? {
        TxnOpResponse::Get(get) => get.kvs().first(),
        _ => None,
    }
}

pub(super) fn revision(etcd: i64) -> Revision {
    Revision(u64::try_from(etcd).unwrap_or_default())
}

/// A key of ours; `None` for one outside the prefix.
pub(super) fn record(keyspace: &Keyspace, kv: &KeyValue) -> Option<Record> {
    Some(Record {
        key: Key::new(keyspace.strip(kv.key())?.to_vec()),
        value: kv.value().to_vec().into(),
        created: revision(kv.create_revision()),
        modified: revision(kv.mod_revision()),
        lease: LeaseId(kv.lease()),
    })
}
