//! What etcd's members and links do to the log that stands on them. Records land once, all replicas live
//! the same, and promises go on.

use std::time::{Duration, Instant};

use integration_tests::{Etcd, EtcdCluster, Mode, Proxy, eventually, unique_prefix};
use lockd::testing::{EtcdConfig, Event, Log as _, LogError};

use super::{
    driven::{Happened, draft},
    ground::{Ground as _, OnEtcd},
    load::{Load, all_lived_the_same},
};

/// The longest time between two proofs, sent every second, where a lost leader is followed by the first
/// election.
const GAP: Duration = Duration::from_secs(3);

/// The longest that a first election takes at etcd's default election timeout of 1 s, which each member
/// lengthens at random by up to as much again. Beyond it the vote was split, and what that takes is etcd's.
const ELECTION: Duration = Duration::from_secs(2);

/// Records that each replica writes before a fault, and again once it is over.
const RECORDS: usize = 200;

/// How long a fault lasts.
const FAULT_LASTS: Duration = Duration::from_secs(5);

/// How long it is watched what a fault that is over still does: a member that thaws may revoke leases.
const WATCHED: Duration = Duration::from_secs(4);

/// For how long answers are lost at a time.
const ANSWERS_LOST: Duration = Duration::from_millis(700);

/// What befalls a member.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Killed,
    Frozen,
    CutOff,
    CutOffFromPeers,
}

/// Which member it befalls, and which one the replica asks.
#[derive(Debug, Clone, Copy)]
enum Struck {
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

/// The endpoints with one of them first: the one that a new log asks.
fn beginning_with(cluster: &EtcdCluster, first: usize) -> Vec<String> {
    let mut endpoints = cluster.endpoints();
    endpoints.rotate_left(first);
    endpoints
}

async fn all_go_on(loads: &mut [Load]) {
    for load in loads {
        load.goes_on(RECORDS).await;
    }
}

async fn survives(fault: Fault, struck: Struck) {
    let cluster = EtcdCluster::start(3).await;
    let leader = cluster.leader().await;
    let follower = (leader + 1) % 3;
    let (struck_member, asked) = match struck {
        Struck::LeaderThatIsAsked => (leader, leader),
        Struck::LeaderBehind => (leader, follower),
        Struck::FollowerThatIsAsked => (follower, follower),
    };
    let on = OnEtcd::at(beginning_with(&cluster, asked));
    let other = on.but(|config| config.endpoints = beginning_with(&cluster, (asked + 1) % 3));
    let mut loads = [Load::start(&on, "a").await, Load::start(&other, "b").await];
    all_go_on(&mut loads).await;
    fault.strike(&cluster, struck_member).await;
    let since = Instant::now();
    if struck_member == leader {
        cluster.leader_after(leader).await;
    }
    let election = since.elapsed();
    tokio::time::sleep(FAULT_LASTS).await;
    fault.heal(&cluster, struck_member).await;
    tokio::time::sleep(WATCHED).await;
    all_go_on(&mut loads).await;
    let mut all = Vec::new();
    for load in loads {
        all.push(load.ends().await);
    }
    for worked in &all {
        let (gap, records, refused) =
            (worked.longest_gap, worked.sent.len(), worked.log.refused.len());
        println!(
            "FIGURES {fault:?} {struck:?}: {records} records, longest gap {gap:?}, election {election:?}"
        );
        let allowed = GAP + election.saturating_sub(ELECTION);
        assert!(gap <= allowed, "{gap:?} between two proofs, {allowed:?} allowed");
        assert_eq!((worked.log.resets, refused), (1, 0), "nothing is lost");
        // A leader that thaws may still revoke leases that were renewed elsewhere meanwhile: seen with 3.5.30
        // beside two busy loops (etcd#15247, whose fix looks at a clock that ticks before it).
        let thawed = matches!((fault, struck), (Fault::Frozen, Struck::LeaderThatIsAsked));
        assert!(worked.lives == 1 || thawed && worked.lives == 2, "{} lives", worked.lives);
    }
    all_lived_the_same(&on, all).await;
}

macro_rules! survived {
    ($($test:ident: $fault:ident, $struck:ident;)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            survives(Fault::$fault, Struck::$struck).await;
        })*
    };
}

survived! {
    a_killed_leader: Killed, LeaderThatIsAsked;
    a_killed_leader_behind_another_member: Killed, LeaderBehind;
    a_frozen_leader: Frozen, LeaderThatIsAsked;
    a_frozen_follower: Frozen, FollowerThatIsAsked;
    a_leader_that_is_cut_off: CutOff, LeaderThatIsAsked;
    a_leader_that_is_cut_off_from_its_peers: CutOffFromPeers, LeaderThatIsAsked;
    a_follower_that_is_cut_off_from_its_peers: CutOffFromPeers, FollowerThatIsAsked;
}

/// Requests arrive and answers are lost, again and again: every attempt may have been applied.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_of_unknown_outcome_land_once() {
    let etcd = Etcd::shared().await;
    let proxies = [
        Proxy::start(etcd.address().to_owned()).await,
        Proxy::start(etcd.address().to_owned()).await,
    ];
    let on = OnEtcd::at(proxies.iter().map(Proxy::url).collect());
    let direct = on.but(|config| config.endpoints = etcd.endpoints());
    let mut loads = [Load::start(&on, "a").await, Load::start(&direct, "b").await];
    for round in 0..8 {
        let proxy = &proxies[round % 2];
        proxy.set(Mode::NoAnswers).await;
        tokio::time::sleep(ANSWERS_LOST).await;
        // The link breaks with all answers that it holds, or they arrive late.
        if round % 3 == 0 {
            proxy.reset_connections();
        }
        proxy.set(Mode::Pass).await;
        all_go_on(&mut loads).await;
    }
    let mut all = Vec::new();
    for load in loads {
        all.push(load.ends().await);
    }
    assert!(all.iter().all(|worked| worked.lives == 1 && worked.log.refused.is_empty()));
    all_lived_the_same(&direct, all).await;
}

/// With a single member there is no other to ask: the same bytes go over the same link again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_whose_answer_was_lost_is_not_made_twice() {
    let etcd = Etcd::shared().await;
    let proxy = Proxy::start(etcd.address().to_owned()).await;
    let on = OnEtcd::at(vec![proxy.url()]);
    let direct = on.but(|config| config.endpoints = etcd.endpoints());
    let mut log = on.opens().await;
    let mut other = direct.opens().await;
    log.writes("before").await;
    proxy.set(Mode::NoAnswers).await;
    log.append_on(0, draft("unknown"));
    // It has landed, and its writer can't know.
    let landed = |event: &Event| match event {
        Event::Record(record) if record.bytes == "unknown" => Some(record.at),
        _ => None,
    };
    let at = other.until(landed).await;
    log.runs_for(Duration::from_millis(1500)).await;
    assert!(!log.log.is_idle(0));
    proxy.reset_connections();
    proxy.set(Mode::Pass).await;
    assert_eq!(log.until(landed).await, at);
    log.writes("after").await;
    other.catches_up().await;
    assert_eq!(other.lived.records(), ["before", "unknown", "after"]);
}

/// A frozen member holds requests that their senders have given up, and carries them out when it thaws.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_that_a_frozen_member_held_does_not_land_again() {
    let cluster = EtcdCluster::start(3).await;
    let frozen = (cluster.leader().await + 1) % 3;
    let on = OnEtcd::at(beginning_with(&cluster, frozen));
    let mut log = on.opens().await;
    log.writes("before").await;
    cluster.pause(frozen).await;
    log.writes_many((0..20).map(|number| format!("record {number}"))).await;
    cluster.unpause(frozen).await;
    log.runs_for(Duration::from_secs(2)).await;
    log.writes("after").await;
    let mut records = log.lived.records();
    assert_eq!(records.len(), 22, "{records:?}");
    records.sort();
    records.dedup();
    assert_eq!(records.len(), 22);
}

/// The watch was away while its revision was compacted: everything is read again, under a new name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_missed_a_compaction_is_read_again() {
    let etcd = Etcd::builder().start().await;
    let proxy = Proxy::start(etcd.address().to_owned()).await;
    let on = OnEtcd::at(vec![proxy.url()]);
    let direct = on.but(|config| config.endpoints = etcd.endpoints());
    let (mut log, mut other) = (on.opens().await, direct.opens().await);
    let first = log.me;
    log.writes("before").await;
    proxy.set(Mode::Refuse).await;
    other.writes("meanwhile").await;
    let floor = other.lived.placed()[0].0;
    let floor = other.checkpoints(floor, &[b"state"]).await;
    other.raises(floor).await;
    other.writes("after the floor").await;
    let mut client = etcd.client().await;
    let now = client.get("k", None).await.unwrap().header().unwrap().revision();
    client.compact(now, None).await.unwrap();
    proxy.set(Mode::Pass).await;

    let second = log.live().await;
    assert_eq!(log.resets, 2);
    assert_ne!(Some(second), first, "a name is never used again");
    let floor_record = format!("floor {}", floor.at);
    assert_eq!(log.lived.chunks, ["state"]);
    assert_eq!(log.lived.records(), ["meanwhile", &floor_record, "after the floor"]);
    log.writes("then").await;
    other.catches_up().await;
    assert_eq!(other.lived.records().last().unwrap(), "then");
    let left =
        |happened: &Happened| matches!(happened, Happened::Left(_, id) if Some(*id) == first);
    assert!(other.lived.happened.iter().any(left), "the name before is gone");
}

/// A link that swallows everything says no word of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_falls_silent_goes_on_elsewhere() {
    let etcd = Etcd::shared().await;
    let (swallows, passes) = (
        Proxy::start(etcd.address().to_owned()).await,
        Proxy::start(etcd.address().to_owned()).await,
    );
    let on = OnEtcd::at(vec![swallows.url(), passes.url()]);
    let direct = on.but(|config| config.endpoints = etcd.endpoints());
    let (mut log, mut other) = (on.opens().await, direct.opens().await);
    swallows.set(Mode::Blackhole).await;
    let since = Instant::now();
    let at = other.writes("elsewhere").await;
    let seen = log
        .until(|event| match event {
            Event::Record(record) => Some(record.at),
            _ => None,
        })
        .await;
    assert_eq!((seen, log.resets), (at, 1), "nothing is missed");
    println!("FIGURES a silent watch went on elsewhere after {:?}", since.elapsed());
    assert!(since.elapsed() < GAP);
}

/// Nothing answers: grants and questions end, promises run out, and all of it comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_is_cut_off_says_so() {
    let etcd = Etcd::shared().await;
    let proxy = Proxy::start(etcd.address().to_owned()).await;
    let on = OnEtcd::at(vec![proxy.url()]);
    let mut log = on.opens().await;
    log.catches_up().await;
    let clock = lockd_proto::clock::Clock::system();
    let standing = log.log.standing();
    assert!(
        standing.is_fresh && standing.promise_until.unwrap() > clock.now() + Duration::from_secs(3)
    );
    proxy.set(Mode::Blackhole).await;
    log.runs_for(Duration::from_millis(3500)).await;
    let standing = log.log.standing();
    assert!(!standing.is_fresh);
    assert!(
        standing.promise_until.unwrap() < clock.now() + Duration::from_millis(1650),
        "it was not renewed"
    );
    proxy.set(Mode::Pass).await;
    eventually("it is fresh again", Duration::from_secs(10), async || {
        log.runs_for(Duration::from_millis(50)).await;
        log.log.standing().is_fresh
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_reached_no_member_is_refused_in_its_time() {
    let etcd = Etcd::shared().await;
    let proxy = Proxy::start(etcd.address().to_owned()).await;
    let on = OnEtcd::with(EtcdConfig {
        lease: Duration::from_secs(20),
        ..EtcdConfig::new(vec![proxy.url()], &unique_prefix())
    });
    let mut log = on.opens().await;
    proxy.set(Mode::Refuse).await;
    // What is sent over a link that breaks may have arrived.
    log.runs_for(Duration::from_secs(1)).await;
    let since = Instant::now();
    log.append_on(0, draft("refused"));
    log.until(|event| matches!(event, Event::Refused { lane: 0, .. }).then_some(())).await;
    assert!(matches!(log.refused[0].1, LogError::Unavailable(_)), "{:?}", log.refused);
    assert!(since.elapsed() < Duration::from_secs(8), "{:?}", since.elapsed());
    proxy.set(Mode::Pass).await;
    log.writes("again").await;
    assert_eq!(log.lived.records(), ["again"]);
    assert_eq!(log.resets, 1);
}

/// What was missed comes in messages that etcd splits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_was_away_catches_up_on_large_records() {
    let etcd = Etcd::shared().await;
    let proxy = Proxy::start(etcd.address().to_owned()).await;
    let on = OnEtcd::at(etcd.endpoints());
    let mut log = on.but(|config| config.endpoints = vec![proxy.url()]).opens().await;
    let mut other = on.opens().await;
    proxy.set(Mode::Refuse).await;
    for number in 0..60_u8 {
        while other.try_append(draft(vec![number; 250 * 1024])).is_none() {
            other.event().await;
        }
    }
    other.settles().await;
    proxy.set(Mode::Pass).await;
    log.catches_up().await;
    other.catches_up().await;
    assert_eq!(log.resets, 1);
    let last = other.lived.happened.last().map(Happened::at).unwrap();
    assert!(log.lived.until(last) == other.lived.happened);
}

/// All members are killed and come back with what they had.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_restarts_whole_is_the_same_one() {
    let cluster = EtcdCluster::start(3).await;
    let on = OnEtcd::at(cluster.endpoints());
    let mut load = Load::start(&on, "a").await;
    load.goes_on(RECORDS).await;
    for member in 0..3 {
        cluster.kill(member).await;
    }
    tokio::join!(cluster.start_again(0), cluster.start_again(1), cluster.start_again(2));
    cluster.leader().await;
    load.goes_on(RECORDS).await;
    let worked = load.ends().await;
    assert_eq!(worked.log.resets, 1);
    all_lived_the_same(&on, vec![worked]).await;
}
