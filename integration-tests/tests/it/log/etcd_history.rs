//! Restored clusters, other layouts, other versions: what is not to be used is refused with a sentence.

use std::time::Duration;

use etcd_client::{Client, GetOptions};
use integration_tests::{Etcd, Mode, Proxy};
use lockd::log::{Event, Log as _, LogError};

use super::{
    driven::Happened,
    ground::{Ground as _, OnEtcd},
};

async fn value(client: &mut Client, key: String) -> String {
    let found = client.get(key, None).await.unwrap();
    found.kvs()[0].value_str().unwrap().to_owned()
}

fn says(error: &LogError, words: &str) {
    assert!(matches!(error, LogError::Broken(text) if text.contains(words)), "{error}");
}

/// What an older snapshot looks like: the marks of the last start are ahead of the cluster.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_has_gone_back_is_refused_until_it_is_accepted() {
    let on = OnEtcd::shared().await;
    let mut client = Etcd::shared().await.client().await;
    let mut log = on.opens().await;
    let before = log.writes("before").await;
    drop(log);
    let seen = value(&mut client, on.key("h/seen")).await;
    let [cluster, term, revision] = seen.split(' ').collect::<Vec<_>>()[..] else {
        panic!("{seen}")
    };
    let later: i64 = revision.parse::<i64>().unwrap() + 1_000_000;
    let higher: u64 = term.parse::<u64>().unwrap() + 1;
    for (marks, words) in [
        (format!("{cluster} {term} {later}"), "revision"),
        (format!("{cluster} {higher} {revision}"), "raft term"),
    ] {
        client.put(on.key("h/seen"), marks, None).await.unwrap();
        says(&on.makes().fails().await, words);
    }
    // Several accept at once: there is one new era.
    let accepting = on.but(|config| config.accept_restored = Some("monday".to_owned()));
    let (mut one, mut two) = (accepting.makes(), accepting.makes());
    let (mut three, mut four) = (accepting.makes(), accepting.makes());
    tokio::join!(one.live(), two.live(), three.live(), four.live());
    let history = client.get(on.key("h/history"), None).await.unwrap();
    assert_eq!(history.kvs()[0].version(), 2, "it was begun, and accepted once");
    drop((three, four));
    let after = one.writes("after").await;
    assert!(after.0 > before.0 + (1 << 40), "{after} after {before}");
    // What was there before keeps its place, for the one that accepted and for all that start later.
    assert_eq!(one.lived.placed()[0].0, before);
    assert_eq!(two.lived.placed()[0].0, before);
    drop((one, two));
    let reader = on.opens().await;
    assert_eq!(reader.lived.records(), ["before", "after"]);
    assert_eq!(reader.lived.placed()[1].0, after);
}

/// A restore may show nothing of itself. The name that it is accepted by may stay in the configuration.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_name_of_a_restore_begins_one_era() {
    let on = OnEtcd::shared().await;
    let named = |name: &str| on.but(|config| config.accept_restored = Some(name.to_owned()));
    let mut places = Vec::new();
    for name in ["first", "first", "second", "second"] {
        places.push(named(name).opens().await.writes("record").await.0);
    }
    let jumps: Vec<_> = places.windows(2).map(|pair| pair[1] - pair[0] > 1 << 40).collect();
    assert_eq!(jumps, [false, true, false], "{places:?}");
    let reader = on.opens().await;
    assert_eq!(reader.lived.placed().iter().map(|(at, _)| at.0).collect::<Vec<_>>(), places);
}

/// RULES J31: an older snapshot of all members shows nothing of itself; the file beside etcd does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_that_the_cluster_does_not_show_is_seen_by_the_mark_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let (file, other) = (folder.path().join("mark"), OnEtcd::shared().await);
    let on = other.but(|config| config.mark_file = Some(file.clone()));
    let mut log = on.opens().await;
    log.writes("before").await;
    drop(log);
    drop(on.opens().await);
    let text = std::fs::read_to_string(&file).unwrap();
    let marked: u64 = text.trim().parse().unwrap();
    // As after many more records, which the cluster has forgotten.
    std::fs::write(&file, (marked + (1 << 30)).to_string()).unwrap();
    says(&on.makes().fails().await, "had reached");
    drop(other.opens().await);
    let accepting = on.but(|config| config.accept_restored = Some("monday".to_owned()));
    let after = accepting.opens().await.writes("after").await;
    assert!(after.0 > marked + (1 << 40), "{after}");
    // The era goes on without its name, and the file knows it.
    drop(on.opens().await);
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.trim().parse::<u64>().unwrap() > marked + (1 << 40), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_missed_a_new_era_lands_nothing() {
    let on = OnEtcd::shared().await;
    let mut client = Etcd::shared().await.client().await;
    let mut log = on.opens().await;
    log.writes("before").await;
    // Its key is written anew by another one.
    let history = value(&mut client, on.key("h/history")).await;
    client.put(on.key("h/history"), format!("{history} 9+1099511627776"), None).await.unwrap();
    let error = log
        .until(|event| match event {
            Event::Failed(error) => Some(error.clone()),
            _ => None,
        })
        .await;
    says(&error, "accepted by another replica");
    assert!(log.log.append(0, super::driven::draft("after")).is_err());
}

/// The link leads to another cluster, which has the same keys for all that this one can know.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_cluster_under_the_same_endpoint_is_noticed_while_it_runs() {
    let (one, two) = (
        Etcd::builder().start().await,
        Etcd::builder().arg("--initial-cluster-token=two").start().await,
    );
    let proxy = Proxy::start(one.address().to_owned()).await;
    let on = OnEtcd::at(vec![proxy.url()]);
    let mut log = on.opens().await;
    log.writes("before").await;
    proxy.set(Mode::Refuse).await;
    proxy.lead_to(two.address());
    proxy.set(Mode::Pass).await;
    let error = log
        .until(|event| match event {
            Event::Failed(error) => Some(error.clone()),
            _ => None,
        })
        .await;
    says(&error, "cluster");
}

/// A cluster of the same id and term, at an earlier revision: all that a restore may leave to be seen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_earlier_revision_of_the_same_cluster_is_noticed_while_it_runs() {
    let (one, two) = (Etcd::builder().start().await, Etcd::builder().start().await);
    let proxy = Proxy::start(one.address().to_owned()).await;
    let on = OnEtcd::at(vec![proxy.url()]);
    let mut log = on.opens().await;
    log.writes_many((0..20).map(|number| format!("record {number}"))).await;
    proxy.set(Mode::Refuse).await;
    proxy.lead_to(two.address());
    proxy.set(Mode::Pass).await;
    let error = log
        .until(|event| match event {
            Event::Failed(error) => Some(error.clone()),
            _ => None,
        })
        .await;
    says(&error, "its revision is");
}

/// Keys that go while a replica runs are no end of its lease.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_were_deleted_are_noticed_while_it_runs() {
    let on = OnEtcd::shared().await;
    let mut client = Etcd::shared().await.client().await;
    let mut log = on.opens().await;
    log.writes("before").await;
    client.delete(on.key("h"), None).await.unwrap();
    let error = log
        .until(|event| match event {
            Event::Failed(error) => Some(error.clone()),
            _ => None,
        })
        .await;
    says(&error, "deleted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_keys_of_an_earlier_lockd_are_refused() {
    let mut client = Etcd::shared().await.client().await;
    for old in ["s/0123", "q/default\0name\0id", "fence", "n/01", "r/default\0once"] {
        let on = OnEtcd::shared().await;
        client.put(on.key(old), "", None).await.unwrap();
        says(&on.makes().fails().await, "choose another prefix");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_newer_version_has_written_is_refused_before_it_is_read() {
    let on = OnEtcd::shared().await;
    let mut client = Etcd::shared().await.client().await;
    let mut log = on.opens().await;
    let at = log.writes("first").await;
    let floor = log.checkpoints(at, &[b"state"]).await;
    log.raises(lockd::log::Floor { level: 2, ..floor }).await;
    drop(log);
    let mut log = on.makes();
    says(&log.fails().await, "newer version");
    assert!(log.lived.chunks.is_empty());
    let newer = on.but(|config| config.level = 2).opens().await;
    let joined = newer.lived.happened.last().cloned();
    assert!(matches!(joined, Some(Happened::Joined(_, _, 2))), "{joined:?}");
    drop(newer);
    for key in ["floor", "h/history", "h/seen"] {
        let was = value(&mut client, on.key(key)).await;
        client.put(on.key(key), format!("{was} and more"), None).await.unwrap();
        let error = on.but(|config| config.level = 2).makes().fails().await;
        assert!(matches!(error, LogError::Broken(_)), "{key}: {error}");
        client.put(on.key(key), was, None).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_with_a_missing_chunk_is_not_read_past() {
    let on = OnEtcd::shared().await;
    let mut client = Etcd::shared().await.client().await;
    let mut log = on.opens().await;
    let at = log.writes("first").await;
    let floor = log.checkpoints(at, &[b"one", b"two", b"three"]).await;
    log.raises(floor).await;
    drop(log);
    let chunks = client.get(on.key("c/"), Some(GetOptions::new().with_prefix())).await.unwrap();
    client.delete(chunks.kvs()[1].key(), None).await.unwrap();
    let mut log = on.makes();
    says(&log.fails().await, "chunk 1 of 3");
}

/// RULES T2: a deletion that did not come to its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_below_the_floor_that_survived_are_skipped_and_deleted() {
    let on = OnEtcd::shared().await;
    let mut client = Etcd::shared().await.client().await;
    let mut log = on.opens().await;
    log.writes_many((0..50).map(|number| format!("below {number}"))).await;
    let at = log.lived.placed().last().unwrap().0;
    let floor = log.checkpoints(at, &[b"state"]).await;
    // Its record lands, and the replica dies before it deletes anything.
    let raise = lockd::log::Draft { floor: Some(floor), ..super::driven::draft("the floor") };
    log.append(raise).await;
    drop(log);
    let reader = on.opens().await;
    assert_eq!(reader.lived.records(), ["the floor"]);
    integration_tests::eventually("they are gone", Duration::from_secs(5), async || {
        let options = GetOptions::new().with_prefix().with_count_only();
        client.get(on.key("l/"), Some(options)).await.unwrap().count() <= 32
    })
    .await;
}
