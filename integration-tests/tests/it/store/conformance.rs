//! The suite. Nothing here knows which store it runs on.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use integration_tests::eventually;
use lockd::store::{
    Change, Delete, Durable, Enqueue, Feed, Guard, Join, LeaseId, MAX_DELETES, MAX_PLACES, Note,
    Op, Outcome, Place, Revision, StoreError,
};
use lockd_proto::Ttl;
use tokio::time::Instant;

use super::fixture::{Fixture, LONG, changes, delete, entry, key, lease_id, next, put};

pub(super) async fn only_the_first_entry_of_a_queue_is_first(on: &Fixture) {
    let session = on.session(LONG).await;
    let mut last = Revision::default();
    for (name, ahead) in [("a", 0), ("b", 1), ("c", 2)] {
        let outcome = on.commit_one(entry(&session, "q/", name, Join::Always)).await;
        let Outcome::Enqueued { revision, first } = outcome else { panic!("{outcome:?}") };
        // A store that would have to look for it leaves it to the watch.
        assert!(!first || ahead == 0, "{name}");
        assert!(revision > last, "revisions grow");
        let record = on.get(&format!("q/{name}")).await.unwrap();
        assert_eq!((record.created, record.lease), (revision, session.lease));
        last = revision;
    }
}

/// Whatever the store makes of it, what is answered is seen.
pub(super) async fn what_may_be_durable_later_is_there_at_once(on: &Fixture) {
    let session = on.session(LONG).await;
    for name in ["a", "b"] {
        let Op::Enqueue(op) = entry(&session, "q/", name, Join::Always) else { panic!() };
        on.commit_one(Op::Enqueue(Enqueue { durable: Durable::After, ..op })).await;
        assert!(on.get(&format!("q/{name}")).await.is_some());
    }
    let (there, mut feed) = on.watch().await;
    assert_eq!(there.len(), 3);
    for name in ["q/a", "q/b"] {
        let Op::Delete(op) = delete(name, Guard::Exists) else { panic!() };
        let queues = vec![key("q/")];
        on.commit_one(Op::Delete(Delete { durable: Durable::After, queues, ..op })).await;
        assert_eq!(on.get(name).await, None);
        let (_, changes) = changes(&mut feed).await;
        assert!(matches!(&*changes, [Change::Deleted(gone)] if *gone == key(name)), "{changes:?}");
    }
}

pub(super) async fn queues_do_not_see_one_another(on: &Fixture) {
    let session = on.session(LONG).await;
    for queue in ["q/a\0", "q/a/b\0", "q/ab\0", "q/\0"] {
        let outcome = on.commit_one(entry(&session, queue, "entry", Join::IfEmpty)).await;
        assert!(matches!(outcome, Outcome::Enqueued { first: true, .. }), "{outcome:?}");
    }
}

pub(super) async fn a_retried_entry_finds_itself(on: &Fixture) {
    let session = on.session(LONG).await;
    let revision = on.joins(&session, "q/", "a").await;
    for join in [Join::Always, Join::IfEmpty] {
        let outcome = on.commit_one(entry(&session, "q/", "a", join)).await;
        let Outcome::Exists(record) = outcome else { panic!("{outcome:?}") };
        assert_eq!((record.created, record.modified), (revision, revision));
        assert_eq!(record.value, Bytes::from("value of a"));
        assert_eq!(record.key, key("q/a"));
    }
}

pub(super) async fn a_try_joins_an_empty_queue_and_no_other(on: &Fixture) {
    let session = on.session(LONG).await;
    let joined = on.commit_one(entry(&session, "q/", "a", Join::IfEmpty)).await;
    assert!(matches!(joined, Outcome::Enqueued { first: true, .. }), "{joined:?}");
    let refused = on.commit_one(entry(&session, "q/", "b", Join::IfEmpty)).await;
    assert_eq!(refused, Outcome::Occupied);
    assert_eq!(on.get("q/b").await, None);
}

pub(super) async fn an_entry_of_a_session_that_is_gone_stays_out(on: &Fixture) {
    let session = on.session(LONG).await;
    on.store.revoke_lease(session.lease).await.unwrap();
    let other = on.session(LONG).await;
    for occupied in [false, true] {
        if occupied {
            on.joins(&other, "q/", "there").await;
        }
        for join in [Join::Always, Join::IfEmpty] {
            let outcome = on.commit_one(entry(&session, "q/", "a", join)).await;
            assert_eq!(outcome, Outcome::SessionGone, "{join:?}, {occupied}");
        }
    }
    assert_eq!(on.get("q/a").await, None);
}

pub(super) async fn a_delete_needs_its_guard(on: &Fixture) {
    let session = on.session(LONG).await;
    let at = on.joins(&session, "q/", "a").await;
    let wrong = on.commit_one(delete("q/a", Guard::At(Revision(at.0 + 1)))).await;
    assert!(matches!(&wrong, Outcome::Refused(Some(there)) if there.created == at), "{wrong:?}");
    let done = on.commit_one(delete("q/a", Guard::At(at))).await;
    assert!(matches!(done, Outcome::Done(revision) if revision > at), "{done:?}");
    for guard in [Guard::At(at), Guard::Exists, Guard::Absent] {
        assert_eq!(on.commit_one(delete("q/a", guard)).await, Outcome::Refused(None));
    }
}

pub(super) async fn a_note_comes_in_one_step_with_the_deletion(on: &Fixture) {
    let session = on.session(LONG).await;
    let at = on.joins(&session, "q/", "a").await;
    let (_, mut feed) = on.watch().await;
    let forced = |guard| {
        let note = Note { key: key("n/a"), value: "why".into(), lease: session.lease };
        Op::Delete(Delete { note: Some(note), ..Delete::new(vec![(key("q/a"), guard)]) })
    };
    let wrong = on.commit_one(forced(Guard::At(Revision(at.0 + 1)))).await;
    assert!(matches!(wrong, Outcome::Refused(Some(_))), "{wrong:?}");
    assert_eq!(on.get("n/a").await, None, "no note without its deletion");
    let done = on.commit_one(forced(Guard::At(at))).await;
    let (revision, changes) = changes(&mut feed).await;
    assert_eq!(done, Outcome::Done(revision));
    let noted = |change: &Change| matches!(change, Change::Put(note) if note.key == key("n/a"));
    let gone = |change: &Change| matches!(change, Change::Deleted(gone) if *gone == key("q/a"));
    assert!(changes.len() == 2 && changes.iter().any(noted) && changes.iter().any(gone));
}

pub(super) async fn a_put_needs_its_guard(on: &Fixture) {
    let (lease, k) = (on.lease(LONG).await, key("k"));
    let absent = on.commit_one(put(&k, "0", lease, Guard::Exists)).await;
    assert_eq!(absent, Outcome::Refused(None));
    let Outcome::Done(created) = on.commit_one(put(&k, "1", lease, Guard::Absent)).await else {
        panic!("a key that is absent can be put")
    };
    let refused = on.commit_one(put(&k, "2", lease, Guard::Absent)).await;
    assert!(matches!(&refused, Outcome::Refused(Some(there)) if there.value == "1"));
    let Outcome::Done(second) = on.commit_one(put(&k, "3", lease, Guard::At(created))).await else {
        panic!("a guard that holds lets a put through")
    };
    let stale = on.commit_one(put(&k, "4", lease, Guard::At(created))).await;
    assert!(matches!(&stale, Outcome::Refused(Some(there)) if there.modified == second));
    let third = on.commit_one(put(&k, "5", lease, Guard::Exists)).await;
    let record = on.get("k").await.unwrap();
    assert_eq!((record.created, Outcome::Done(record.modified)), (created, third));
    assert_eq!(record.value, Bytes::from("5"));
}

pub(super) async fn a_put_under_a_lease_that_is_gone_fails_alone(on: &Fixture) {
    let session = on.session(LONG).await;
    let gone = lease_id();
    let batch = vec![
        entry(&session, "q/", "a", Join::Always),
        put(&key("k"), "1", gone, Guard::Absent),
        put(&session.key, "2", session.lease, Guard::Exists),
    ];
    let outcomes = on.store.commit(batch).await.unwrap();
    assert!(matches!(outcomes[0], Outcome::Enqueued { .. }), "{outcomes:?}");
    assert_eq!(outcomes[1], Outcome::Refused(None));
    assert!(matches!(outcomes[2], Outcome::Done(_)), "{outcomes:?}");
}

pub(super) async fn the_end_of_a_lease_deletes_all_its_keys_in_one_step(on: &Fixture) {
    let (dies, lives) = (on.session(LONG).await, on.session(LONG).await);
    for queue in ["q/1\0", "q/2\0"] {
        on.joins(&dies, queue, "a").await;
        on.joins(&lives, queue, "b").await;
    }
    let (_, mut feed) = on.watch().await;
    on.store.revoke_lease(dies.lease).await.unwrap();
    let (_, changes) = changes(&mut feed).await;
    let gone = changes.into_iter().map(|change| match change {
        Change::Deleted(key) => key,
        Change::Put(record) => panic!("{record:?} was written"),
    });
    let gone: BTreeSet<_> = gone.collect();
    assert_eq!(gone, BTreeSet::from([dies.key, key("q/1\0a"), key("q/2\0a")]));
    assert!(on.get("q/1\0b").await.is_some());
}

pub(super) async fn a_lease_that_is_not_kept_alive_ends(on: &Fixture) {
    let ttl = Duration::from_secs(2);
    let start = Instant::now();
    let session = on.session(ttl).await;
    on.joins(&session, "q/", "a").await;
    let left = on.store.lease_remaining(session.lease).await.unwrap();
    assert!(left.is_some_and(|left| left <= ttl), "{left:?}");
    let within = ttl + Duration::from_secs(2);
    eventually("the entry goes", within, async || on.get("q/a").await.is_none()).await;
    assert!(start.elapsed() >= ttl, "never early");
    assert_eq!(on.store.lease_remaining(session.lease).await.unwrap(), None);
    let late = on.store.keep_alive(session.lease).await;
    assert!(matches!(late, Err(StoreError::LeaseNotFound)), "{late:?}");
}

pub(super) async fn a_lease_that_is_kept_alive_does_not(on: &Fixture) {
    let session = on.session(Duration::from_secs(2)).await;
    // For twice its TTL, in the time of whoever keeps it: etcd's can't be paused.
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        on.store.keep_alive(session.lease).await.unwrap();
    }
    assert!(on.store.get(session.key).await.unwrap().is_some());
}

pub(super) async fn a_lease_that_is_gone_stays_gone(on: &Fixture) {
    let lease = on.lease(LONG).await;
    on.store.revoke_lease(lease).await.unwrap();
    on.store.revoke_lease(lease).await.expect("a second time is a retry");
    on.store.revoke_lease(lease_id()).await.expect("it is gone, as was asked");
    let kept = on.store.keep_alive(lease).await;
    assert!(matches!(kept, Err(StoreError::LeaseNotFound)), "{kept:?}");
    assert_eq!(on.store.lease_remaining(lease).await.unwrap(), None);
}

pub(super) async fn a_lease_is_granted_once(on: &Fixture) {
    let lease = lease_id();
    let granted = on.store.grant_lease(lease, Ttl::granted(LONG)).await.unwrap();
    assert_eq!(granted.get(), LONG);
    let again = on.store.grant_lease(lease, Ttl::granted(LONG * 2)).await.unwrap();
    assert_eq!(again.get(), LONG, "what was granted first holds");
    let left = on.store.lease_remaining(lease).await.unwrap();
    assert!(left.is_some_and(|left| left <= LONG), "{left:?}");
}

pub(super) async fn the_range_of_ttls_is_granted(on: &Fixture) {
    let range = on.store.profile().ttl;
    for asked in [range.min, range.max, Duration::from_millis(2300)] {
        let lease = lease_id();
        let granted = on.store.grant_lease(lease, range.check(asked).unwrap()).await.unwrap();
        let (granted, second) = (granted.get(), Duration::from_secs(1));
        assert!((asked..asked + second).contains(&granted), "{asked:?}: {granted:?}");
    }
    assert!(range.check(range.min / 2).is_err() && range.check(range.max * 2).is_err());
}

pub(super) async fn a_batch_has_one_outcome_an_operation(on: &Fixture) {
    let session = on.session(LONG).await;
    let at = on.joins(&session, "q/1\0", "a").await;
    let batch = vec![
        entry(&session, "q/2\0", "a", Join::Always),
        delete("q/1\0nobody", Guard::Exists),
        entry(&session, "q/3\0", "a", Join::IfEmpty),
        delete("q/1\0a", Guard::At(at)),
        put(&session.key, "attached", session.lease, Guard::Exists),
    ];
    let outcomes = on.store.commit(batch).await.unwrap();
    assert_eq!(outcomes.len(), 5);
    assert!(matches!(outcomes[0], Outcome::Enqueued { .. }), "{outcomes:?}");
    assert_eq!(outcomes[1], Outcome::Refused(None));
    assert!(matches!(outcomes[2], Outcome::Enqueued { first: true, .. }), "{outcomes:?}");
    assert!(matches!(outcomes[3], Outcome::Done(_)), "{outcomes:?}");
    assert!(matches!(outcomes[4], Outcome::Done(_)), "{outcomes:?}");
}

/// As many entries as go into one batch, each with the longest names and the most metadata.
pub(super) async fn the_largest_batch_fits(on: &Fixture) {
    let session = on.session(LONG).await;
    let (namespace, metadata) = ("n".repeat(512), "m".repeat(5 * 1024));
    let batch = (0..on.store.profile().max_ops).map(|i| {
        let queue = format!("q/{namespace}\0{i:0512}\0");
        Op::Enqueue(Enqueue {
            places: vec![Place { key: key(format!("{queue}{:064}", i)), queue: key(queue) }],
            value: metadata.clone().into(),
            session: session.key.clone(),
            lease: session.lease,
            join: Join::Always,
            durable: Durable::Before,
        })
    });
    let outcomes = on.store.commit(batch.collect()).await.unwrap();
    for outcome in outcomes {
        assert!(matches!(outcome, Outcome::Enqueued { .. }), "{outcome:?}");
    }
}

pub(super) async fn parallel_batches_all_happen(on: &Fixture) {
    let session = &on.session(LONG).await;
    let rounds = (0..8).map(|worker| async move {
        let mut revisions = Vec::new();
        for round in 0..20 {
            let batch = (0..5).map(|queue| {
                entry(session, &format!("q/{queue}\0"), &format!("{worker}-{round}"), Join::Always)
            });
            for (queue, outcome) in
                on.store.commit(batch.collect()).await.unwrap().iter().enumerate()
            {
                let Outcome::Enqueued { revision, .. } = outcome else { panic!("{outcome:?}") };
                revisions.push((queue, *revision));
            }
        }
        revisions
    });
    let revisions = futures::future::join_all(rounds).await.concat();
    let distinct: BTreeSet<_> = revisions.iter().collect();
    assert_eq!(
        (revisions.len(), distinct.len()),
        (800, 800),
        "a revision is one entry's of a queue"
    );
}

pub(super) async fn the_first_record_is_the_oldest(on: &Fixture) {
    let session = on.session(LONG).await;
    assert_eq!(on.store.first(key("q/")).await.unwrap(), None);
    let oldest = on.joins(&session, "q/", "z").await;
    on.joins(&session, "q/", "a").await;
    let first = on.store.first(key("q/")).await.unwrap().unwrap();
    assert_eq!((first.key, first.created), (key("q/z"), oldest));
    on.commit_one(delete("q/z", Guard::At(oldest))).await;
    assert_eq!(on.store.first(key("q/")).await.unwrap().unwrap().key, key("q/a"));
}

pub(super) async fn a_watch_tells_the_state_and_then_every_change(on: &Fixture) {
    let session = &on.session(LONG).await;
    on.joins(session, "q/", "before").await;
    let (records, mut feed) = on.watch().await;
    let mut state: BTreeMap<_, _> =
        records.into_iter().map(|record| (record.key.clone(), record)).collect();
    assert!(state.contains_key(&key("q/before")) && state.contains_key(&session.key));
    assert_eq!(state.len(), 2);

    for name in ["a", "b", "c"] {
        on.joins(session, "q/", name).await;
    }
    on.commit_one(delete("q/b", Guard::Exists)).await;
    on.commit_one(put(&session.key, "last", session.lease, Guard::Exists)).await;
    let mut at = Revision::default();
    while state.get(&session.key).is_none_or(|record| record.value != "last") {
        let (revision, changes) = changes(&mut feed).await;
        assert!(revision > at, "revisions come in order, each whole");
        at = revision;
        for change in changes {
            match change {
                Change::Put(record) => {
                    assert_eq!(record.modified, revision);
                    state.insert(record.key.clone(), record);
                }
                Change::Deleted(key) => assert!(state.remove(&key).is_some(), "{key:?}"),
            }
        }
    }
    let there: Vec<_> = state.into_keys().collect();
    let entries = ["q/a", "q/before", "q/c"].map(key);
    assert_eq!(there, entries.into_iter().chain([session.key.clone()]).collect::<Vec<_>>());
}

pub(super) async fn a_watch_confirms_that_nothing_happens(on: &Fixture) {
    let (_, mut feed) = on.watch().await;
    for _ in 0..2 {
        assert!(matches!(next(&mut feed).await, Feed::Confirmed(_)));
    }
}

fn several(session: &super::fixture::Session, queues: &[String], name: &str, join: Join) -> Op {
    let place = |queue: &String| Place { key: key(format!("{queue}{name}")), queue: key(queue) };
    Op::Enqueue(Enqueue {
        places: queues.iter().map(place).collect(),
        value: "several".into(),
        session: session.key.clone(),
        lease: session.lease,
        join,
        durable: Durable::Before,
    })
}

pub(super) async fn an_entry_joins_several_queues_in_one_step_or_none(on: &Fixture) {
    let session = on.session(LONG).await;
    let queues = ["q/a/", "q/b/", "q/c/"].map(str::to_owned);
    let first = on.commit_one(several(&session, &queues, "1", Join::IfEmpty)).await;
    let Outcome::Enqueued { revision, first: true } = first else { panic!("{first:?}") };
    for queue in &queues {
        let found = on.store.get(key(format!("{queue}1"))).await.unwrap().unwrap();
        assert_eq!(found.created, revision, "one revision for all");
    }
    // Occupied in one is occupied; and whoever waits joins all of them.
    let others = ["q/c/", "q/d/"].map(str::to_owned);
    let tried = on.commit_one(several(&session, &others, "2", Join::IfEmpty)).await;
    assert_eq!(tried, Outcome::Occupied);
    assert_eq!(on.store.get(key("q/d/2")).await.unwrap(), None);
    let joined = on.commit_one(several(&session, &others, "2", Join::Always)).await;
    assert!(matches!(joined, Outcome::Enqueued { first: false, .. }), "{joined:?}");
    let again = on.commit_one(several(&session, &others, "2", Join::Always)).await;
    assert!(matches!(again, Outcome::Exists(_)), "{again:?}");
}

pub(super) async fn several_keys_are_deleted_in_one_step_or_none(on: &Fixture) {
    let session = on.session(LONG).await;
    let queues = ["q/a/", "q/b/"].map(str::to_owned);
    let joined = on.commit_one(several(&session, &queues, "1", Join::Always)).await;
    let Outcome::Enqueued { revision, .. } = joined else { panic!("{joined:?}") };
    // Its value is written again: it is as old as before.
    let rewritten =
        on.commit_one(put(&key("q/a/1"), "new", session.lease, Guard::At(revision))).await;
    assert!(matches!(rewritten, Outcome::Done(_)), "{rewritten:?}");
    let delete = |last: &str, made| {
        let keys = ["q/a/1", last].map(|name| (key(name), Guard::Made(made)));
        Op::Delete(Delete::new(keys.to_vec()))
    };
    let partly = on.commit_one(delete("q/x/1", revision)).await;
    assert!(matches!(partly, Outcome::Refused(_)), "{partly:?}");
    let wrong = on.commit_one(delete("q/b/1", Revision(revision.0 + 1))).await;
    assert!(matches!(wrong, Outcome::Refused(_)), "{wrong:?}");
    assert!(on.store.get(key("q/a/1")).await.unwrap().is_some(), "all or none");
    let done = on.commit_one(delete("q/b/1", revision)).await;
    assert!(matches!(done, Outcome::Done(_)), "{done:?}");
    assert_eq!(on.store.first(key("q/")).await.unwrap(), None);
}

pub(super) async fn the_widest_operations_fit(on: &Fixture) {
    let session = on.session(LONG).await;
    let queues: Vec<_> = (0..MAX_PLACES).map(|n| format!("q/{n:02}/")).collect();
    let others = (0..on.store.profile().max_ops - MAX_PLACES)
        .map(|n| several(&session, &[format!("q/other-{n:02}/")], "1", Join::Always));
    let batch = [several(&session, &queues, "1", Join::IfEmpty)].into_iter().chain(others);
    let outcomes = on.store.commit(batch.collect()).await.unwrap();
    assert!(outcomes.iter().all(|it| matches!(it, Outcome::Enqueued { .. })));
    let names: Vec<_> = (0..MAX_DELETES).map(|n| format!("k/{n:03}")).collect();
    let mut keys = Vec::new();
    for name in names {
        let made = on.commit_one(put(&key(name.as_str()), "v", session.lease, Guard::Absent)).await;
        let Outcome::Done(at) = made else { panic!("{made:?}") };
        keys.push((key(name), Guard::Made(at)));
    }
    let deleted = on.commit_one(Op::Delete(Delete::new(keys))).await;
    assert!(matches!(deleted, Outcome::Done(_)), "{deleted:?}");
    assert_eq!(on.store.first(key("k/")).await.unwrap(), None);
}

pub(super) async fn what_is_attached_to_no_lease_outlives_its_session(on: &Fixture) {
    let session = on.session(LONG).await;
    let none = LeaseId::NONE;
    let stays = Op::Enqueue(Enqueue {
        places: vec![Place { key: key("q/stays"), queue: key("q/") }],
        value: "stays".into(),
        session: session.key.clone(),
        lease: none,
        join: Join::Always,
        durable: Durable::Before,
    });
    let joined = on.commit_one(stays.clone()).await;
    let Outcome::Enqueued { revision, .. } = joined else { panic!("{joined:?}") };
    on.commit_one(entry(&session, "q/", "goes", Join::Always)).await;
    on.store.revoke_lease(session.lease).await.unwrap();
    assert_eq!(on.store.get(key("q/goes")).await.unwrap(), None);
    let found = on.store.get(key("q/stays")).await.unwrap().unwrap();
    assert_eq!((found.created, found.lease), (revision, none));
    // Without its session nothing joins any more, whatever lease it names.
    let Op::Enqueue(late) = stays else { unreachable!("made above") };
    let places = vec![Place { key: key("q/late"), queue: key("q/") }];
    let late = on.commit_one(Op::Enqueue(Enqueue { places, ..late })).await;
    assert_eq!(late, Outcome::SessionGone);
}
