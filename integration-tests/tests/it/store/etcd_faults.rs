//! What etcd's members do to the store that stands on them: they die, freeze, and lose one
//! another. No call fails that another member could have answered, each has one effect, and
//! keepalives go on.

use std::time::{Duration, Instant};

use integration_tests::{Etcd, EtcdCluster, Mode, Proxy, eventually, unique_prefix};
use lockd::store::{Feed, Guard, Join, Outcome};

use super::{
    fixture::{Fixture, LONG, changes, delete, entry, key, next},
    history::{Figures, Load},
};

/// The longest time between two acknowledged keepalives, sent every second, where a lost leader
/// is followed by the first election.
const GAP: Duration = Duration::from_secs(3);

/// The longest that a first election takes at etcd's default election timeout of 1 s, which each
/// member lengthens at random by up to as much again. Beyond it the vote was split, and what that
/// takes is etcd's.
const ELECTION: Duration = Duration::from_secs(2);

/// Keepalives before the fault, under it, and after it.
const KEEPALIVES: [usize; 3] = [3, 6, 4];

/// What befalls a member.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Killed,
    Frozen,
    CutOff,
    CutOffFromPeers,
}

/// Which member it befalls, and which one the store asks.
#[derive(Debug, Clone, Copy)]
enum Who {
    LeaderThatIsAsked,
    LeaderBehind,
    FollowerThatIsAsked,
}

impl Fault {
    async fn strike(self, cluster: &EtcdCluster, member: usize) {
        match self {
            Self::Killed => cluster.kill(member).await,
            Self::Frozen => cluster.pause(member).await,
            Self::CutOff => cluster.cut_off(member).await,
            Self::CutOffFromPeers => cluster.cut_off_from_peers(member).await,
        }
    }

    async fn heal(self, cluster: &EtcdCluster, member: usize) {
        match self {
            Self::Killed => cluster.start_again(member).await,
            Self::Frozen => cluster.unpause(member).await,
            Self::CutOff | Self::CutOffFromPeers => cluster.rejoin(member).await,
        }
    }
}

/// The endpoints with one of them first: the one that a new store asks.
fn beginning_with(cluster: &EtcdCluster, first: usize) -> Vec<String> {
    let mut endpoints = cluster.endpoints();
    endpoints.rotate_left(first);
    endpoints
}

/// How long the cluster is without a leader once it has lost this one.
async fn elected(cluster: &EtcdCluster, lost: usize) -> Duration {
    let since = Instant::now();
    cluster.leader_after(lost).await;
    since.elapsed()
}

async fn survives(fault: Fault, who: Who) {
    let cluster = EtcdCluster::start(3).await;
    let leader = cluster.leader().await;
    let follower = (leader + 1) % 3;
    let (struck, asked) = match who {
        Who::LeaderThatIsAsked => (leader, leader),
        Who::LeaderBehind => (leader, follower),
        Who::FollowerThatIsAsked => (follower, follower),
    };
    let on = Fixture::on(beginning_with(&cluster, asked), unique_prefix()).await;
    let load = Load::start(&on).await;
    let [before, under, after] = KEEPALIVES;
    load.keepalives(before).await;
    fault.strike(&cluster, struck).await;
    let election = if struck == leader { elected(&cluster, leader).await } else { Duration::ZERO };
    load.keepalives(under).await;
    fault.heal(&cluster, struck).await;
    load.keepalives(after).await;
    let Figures { calls, slowest, longest_gap, snapshots } = load.ends_whole().await;
    println!(
        "FIGURES {fault:?} {who:?}: {calls} calls, none failed, slowest {slowest:?}, keepalive gap {longest_gap:?}, \
         election {election:?}"
    );
    let allowed = GAP + election.saturating_sub(ELECTION);
    assert!(longest_gap <= allowed, "{longest_gap:?} between two keepalives, {allowed:?} allowed");
    assert_eq!(snapshots, 1, "the watch goes on where it was");
}

macro_rules! survived {
    ($($test:ident: $fault:ident, $who:ident;)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            survives(Fault::$fault, Who::$who).await;
        })*
    };
}

survived! {
    a_killed_leader: Killed, LeaderThatIsAsked;
    a_killed_leader_behind_another_member: Killed, LeaderBehind;
    a_frozen_leader: Frozen, LeaderThatIsAsked;
    a_frozen_leader_behind_another_member: Frozen, LeaderBehind;
    a_frozen_follower: Frozen, FollowerThatIsAsked;
    a_leader_that_is_cut_off: CutOff, LeaderThatIsAsked;
    a_leader_that_is_cut_off_from_its_peers: CutOffFromPeers, LeaderThatIsAsked;
    a_follower_that_is_cut_off_from_its_peers: CutOffFromPeers, FollowerThatIsAsked;
}

/// A frozen member holds requests that its clients have given up, and carries them out when it
/// thaws: a plain write of a client does come late. A commit does not: the fence has moved.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_a_frozen_member_held_is_not_applied_late() {
    let cluster = EtcdCluster::start(3).await;
    let frozen = (cluster.leader().await + 1) % 3;
    let prefix = unique_prefix();
    let on = Fixture::on(beginning_with(&cluster, frozen), prefix.clone()).await;
    let session = on.session(LONG).await;
    let late = format!("{prefix}late");
    let mut raw = cluster.client(frozen).await;
    raw.get(late.clone(), None).await.unwrap();

    cluster.pause(frozen).await;
    let plain = tokio::spawn(async move { raw.put(late, "", None).await });
    for name in ["a", "b", "c"] {
        let joined = on.commit_one(entry(&session, "q/", name, Join::Always)).await;
        let at = match joined {
            Outcome::Enqueued { revision, .. } => revision,
            other => panic!("{other:?}"),
        };
        assert!(matches!(
            on.commit_one(delete(&format!("q/{name}"), Guard::At(at))).await,
            Outcome::Done(_)
        ));
    }
    let (_, mut feed) = on.watch().await;
    cluster.unpause(frozen).await;
    let (_, late) = changes(&mut feed).await;
    assert!(
        matches!(&late[..], [lockd::store::Change::Put(record)] if record.key == key("late")),
        "{late:?}"
    );
    drop(plain.await.unwrap());
    for _ in 0..3 {
        let then = next(&mut feed).await;
        assert!(matches!(&then, Feed::Confirmed(_)), "nothing else comes late: {then:?}");
    }
    assert_eq!(on.store.first(key("q/")).await.unwrap(), None);
}

/// The same fence against a transaction of our shape that nobody has given up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_compares_an_old_fence_is_not_applied() {
    use etcd_client::{Compare, CompareOp, Txn, TxnOp};
    let cluster = EtcdCluster::start(3).await;
    let frozen = (cluster.leader().await + 1) % 3;
    let prefix = unique_prefix();
    let on = Fixture::on(beginning_with(&cluster, frozen), prefix.clone()).await;
    let session = on.session(LONG).await;
    let fence = format!("{prefix}fence");
    let (mut held, mut other) =
        (cluster.client(frozen).await, cluster.client((frozen + 1) % 3).await);
    let now = held.get(fence.clone(), None).await.unwrap();
    let now = now.kvs().first().map_or(0, etcd_client::KeyValue::mod_revision);
    let txn = Txn::new()
        .when([Compare::mod_revision(fence.clone(), CompareOp::Equal, now)])
        .and_then([TxnOp::put(format!("{prefix}late"), "", None)]);

    cluster.pause(frozen).await;
    let held = tokio::spawn(async move { held.txn(txn).await });
    // The store's own attempt at the frozen member makes it raise the fence.
    on.joins(&session, "q/", "a").await;
    let raised = other.get(fence, None).await.unwrap();
    assert!(raised.kvs().first().is_some_and(|kv| kv.mod_revision() > now), "the fence is raised");
    cluster.unpause(frozen).await;
    let answer = held.await.unwrap();
    assert!(answer.as_ref().is_ok_and(|answer| !answer.succeeded()), "{answer:?}");
    assert_eq!(on.get("late").await, None);
}

/// The watch was away while its revision was compacted: it tells the whole state anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_missed_a_compaction_tells_the_state_anew() {
    let etcd = Etcd::builder().start().await;
    let proxy = Proxy::start(etcd.address().to_owned()).await;
    let prefix = unique_prefix();
    let on = Fixture::on(vec![format!("http://{}", proxy.addr())], prefix.clone()).await;
    let direct = Fixture::on(etcd.endpoints(), prefix).await;
    let session = direct.session(LONG).await;
    direct.joins(&session, "q/", "gone").await;
    let (_, mut feed) = on.watch().await;

    proxy.set(Mode::Refuse).await;
    direct.commit_one(delete("q/gone", Guard::Exists)).await;
    let at = direct.joins(&session, "q/", "new").await;
    let revision = i64::try_from(at.0).unwrap();
    etcd.client().await.compact(revision, None).await.unwrap();
    proxy.set(Mode::Pass).await;

    let anew = eventually("a second snapshot", Duration::from_secs(10), async || {
        match next(&mut feed).await {
            Feed::Snapshot { records, .. } => Some(records),
            Feed::Changes { .. } | Feed::Confirmed(_) => None,
        }
    })
    .await;
    let entries: Vec<_> =
        anew.iter().map(|record| &record.key).filter(|key| key.as_bytes()[0] == b'q').collect();
    assert_eq!(entries, [&key("q/new")]);
    direct.joins(&session, "q/", "then").await;
    changes(&mut feed).await;
}

/// A link that swallows everything says no word of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_falls_silent_goes_on_elsewhere() {
    let etcd = Etcd::shared().await;
    let (swallows, passes) = (
        Proxy::start(etcd.address().to_owned()).await,
        Proxy::start(etcd.address().to_owned()).await,
    );
    let prefix = unique_prefix();
    let urls = [&swallows, &passes].map(|proxy| format!("http://{}", proxy.addr()));
    let on = Fixture::on(urls.to_vec(), prefix.clone()).await;
    let direct = Fixture::on(etcd.endpoints(), prefix).await;
    let session = direct.session(LONG).await;
    let (_, mut feed) = on.watch().await;
    swallows.set(Mode::Blackhole).await;
    let at = direct.joins(&session, "q/", "a").await;
    let (seen, _) = changes(&mut feed).await;
    assert_eq!(seen, at, "nothing is missed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_any_member_a_call_ends_in_its_time() {
    let etcd = Etcd::shared().await;
    let proxy = Proxy::start(etcd.address().to_owned()).await;
    let on = Fixture::on(vec![format!("http://{}", proxy.addr())], unique_prefix()).await;
    let session = on.session(LONG).await;
    proxy.set(Mode::Refuse).await;
    let start = tokio::time::Instant::now();
    for refused in [
        on.store.get(key("k")).await.map(drop),
        on.store.keep_alive(session.lease).await,
        on.try_one(entry(&session, "q/", "a", Join::Always)).await.map(drop),
    ] {
        let error = refused.unwrap_err();
        assert!(matches!(error, lockd::store::StoreError::Unavailable(_)), "{error}");
    }
    assert!(start.elapsed() < Duration::from_secs(3 * 8), "{:?}", start.elapsed());
    proxy.set(Mode::Pass).await;
    on.joins(&session, "q/", "a").await;
}
