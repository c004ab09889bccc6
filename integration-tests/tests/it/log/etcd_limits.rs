//! What else etcd can be: full, guarded by passwords, short of history.

use std::time::Duration;

use etcd_client::{AlarmAction, AlarmOptions, AlarmType, Client, CompactionOptions, DeleteOptions};
use integration_tests::{Etcd, eventually, unique_prefix};
use lockd::log::{Draft, Event, Log as _, LogError, Room, etcd::EtcdConfig};

use super::{
    driven::draft,
    ground::{Ground as _, OnEtcd},
};

async fn fill(client: &mut Client) {
    let mut number = 0;
    eventually("etcd is full", Duration::from_secs(20), async || {
        number += 1;
        let filled = client.put(format!("fill/{number}"), vec![b'x'; 256 * 1024], None).await;
        filled.err().filter(|error| error.to_string().contains("space"))
    })
    .await;
}

/// What etcd's guide says to do about a full cluster.
async fn make_room(client: &mut Client) {
    let all = Some(DeleteOptions::new().with_prefix());
    let deleted = client.delete("fill/", all).await.unwrap();
    let (revision, member) =
        deleted.header().map(|header| (header.revision(), header.member_id())).unwrap();
    client.compact(revision, Some(CompactionOptions::new().with_physical())).await.unwrap();
    client.defragment().await.unwrap();
    let mut options = AlarmOptions::new();
    options.with_member(member);
    client.alarm(AlarmAction::Deactivate, AlarmType::Nospace, Some(options)).await.unwrap();
}

/// Sessions and waits are refused; releases, checkpoints and their floors go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_etcd_takes_what_frees_room_and_says_that_it_is_full() {
    let etcd = Etcd::builder().arg("--quota-backend-bytes=2097152").start().await;
    let on = OnEtcd::at(etcd.endpoints());
    let (mut log, other) = (on.opens().await, on.opens().await);
    log.writes("before").await;
    let mut client = etcd.client().await;
    fill(&mut client).await;
    // The first ones meet the alarm in etcd, the later ones what is known of it.
    eventually("records are refused", Duration::from_secs(10), async || {
        match log.log.append(0, draft("refused")) {
            Ok(()) => {
                log.under_way.insert(0, "refused".into());
                log.settles().await;
                false
            }
            Err(error) => matches!(error, LogError::Full(_)),
        }
    })
    .await;
    assert!(log.refused.iter().all(|(_, error)| matches!(error, LogError::Full(_))));
    for number in 0..20 {
        log.append(Draft { room: Room::Reserve, ..draft(format!("release {number}")) }).await;
    }
    let at = log.lived.placed().last().unwrap().0;
    let floor = log.checkpoints(at, &[b"state"]).await;
    log.raises(floor).await;
    let gone = other.me.unwrap();
    drop(other);
    log.until(|event| {
        matches!(event, Event::Left { replica, .. } if *replica == gone).then_some(())
    })
    .await;
    log.runs_for(Duration::from_secs(6)).await;
    assert_eq!((log.resets, log.me.is_some()), (1, true), "its lease goes on");
    make_room(&mut client).await;
    eventually("records are taken again", Duration::from_secs(10), async || {
        log.log.append(0, draft("after")).is_ok()
    })
    .await;
}

/// A full etcd grants no lease. What is released meanwhile goes by way of the replicas that live, and the
/// one whose lease was lost comes back once there is room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_whose_lease_ends_while_etcd_is_full_comes_back_and_releases_go_on() {
    let etcd = Etcd::builder().arg("--quota-backend-bytes=2097152").start().await;
    let on = OnEtcd::at(etcd.endpoints());
    let (mut one, mut two) = (on.opens().await, on.opens().await);
    two.writes("before").await;
    let mut client = etcd.client().await;
    fill(&mut client).await;
    let lost = one.me.unwrap();
    let key = client.get(on.key(&format!("r/{lost}")), None).await.unwrap();
    client.lease_revoke(key.kvs()[0].lease()).await.unwrap();
    let gone = |event: &Event| {
        matches!(event, Event::Left { replica, .. } if *replica == lost).then_some(())
    };
    two.until(gone).await;
    one.until(gone).await;
    for number in 0..20 {
        two.append(Draft { room: Room::Reserve, ..draft(format!("release {number}")) }).await;
    }
    // It follows, and says that it can write nothing.
    one.catches_up().await;
    assert_eq!(one.lived.records().last().unwrap(), "release 19");
    let refused = one.log.append(0, Draft { room: Room::Reserve, ..draft("refused") });
    assert!(matches!(refused, Err(LogError::Unavailable(_))), "{refused:?}");
    make_room(&mut client).await;
    assert_ne!(one.live().await, lost);
    // The alarm is looked at now and then: what is ordinary may be refused for a moment.
    one.append(Draft { room: Room::Reserve, ..draft("after") }).await;
    two.catches_up().await;
    assert_eq!(two.lived.records(), one.lived.records());
    assert_eq!((one.resets, two.resets), (1, 1));
}

/// Many times the quota is written, and what is deleted is given back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_is_trimmed_and_compacted_stays_within_its_quota() {
    const QUOTA: usize = 48 << 20;
    let etcd = Etcd::builder().arg(format!("--quota-backend-bytes={QUOTA}")).start().await;
    let on = OnEtcd::with(EtcdConfig {
        history_kept: Some(Duration::from_millis(600)),
        ..EtcdConfig::new(etcd.endpoints(), &unique_prefix())
    });
    let mut log = on.opens().await;
    let bytes = bytes::Bytes::from(vec![9; 64 * 1024]);
    let mut written = 0;
    while written < 5 * QUOTA {
        for _ in 0..32 {
            while log.try_append(draft(bytes.clone())).is_none() {
                log.event().await;
            }
            written += bytes.len();
        }
        log.settles().await;
        assert!(log.refused.is_empty(), "{:?}", log.refused.first());
        if log.log.bytes_after_floor() > 4 << 20 {
            let at = log.lived.placed().last().unwrap().0;
            let floor = log.checkpoints(at, &[b"state"]).await;
            log.raises(floor).await;
            // At full speed the quota is written before a history of half a second is old.
            log.runs_for(Duration::from_millis(300)).await;
        }
    }
    let size = etcd.client().await.status().await.unwrap().db_size();
    println!("FIGURES {} MiB written, etcd holds {} MiB", written >> 20, size >> 20);
}

/// A token of etcd's runs out; the log logs in again by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_is_used_and_its_token_is_renewed() {
    let etcd = Etcd::builder().arg("--auth-token-ttl=1").start().await;
    let mut client = etcd.client().await;
    client.user_add("root", "secret", None).await.unwrap();
    client.role_add("root").await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    client.auth_enable().await.unwrap();
    assert!(client.put("k", "", None).await.is_err());

    let with = |password: &str| {
        OnEtcd::with(EtcdConfig {
            user: Some(("root".to_owned(), password.to_owned())),
            ..EtcdConfig::new(etcd.endpoints(), &unique_prefix())
        })
    };
    let refused = with("wrong").makes().fails().await;
    assert!(matches!(refused, LogError::Broken(_)), "{refused}");
    let refused = OnEtcd::at(etcd.endpoints()).makes().fails().await;
    assert!(matches!(refused, LogError::Broken(_)), "{refused}");
    let mut log = with("secret").opens().await;
    for text in ["a", "b"] {
        log.writes(text).await;
        // For longer than a token lives. Proofs use theirs meanwhile, and prolong it.
        log.runs_for(Duration::from_secs(3)).await;
        assert!(log.log.standing().is_fresh);
    }
    assert_eq!((log.resets, log.lived.records().len()), (1, 2));
}

/// RULES L10: etcd grants more than was asked for where its elections take long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_longer_lease_than_asked_for_is_counted_as_it_was_granted() {
    let etcd = Etcd::builder()
        .arg("--election-timeout=5000")
        .arg("--heartbeat-interval=500")
        .start()
        .await;
    let on = OnEtcd::at(etcd.endpoints());
    let log = on.opens().await;
    let clock = lockd_proto::clock::Clock::system();
    let left = log.log.standing().promise_until.unwrap().saturating_duration_since(clock.now());
    println!("FIGURES a lease of 5 s promises for {left:?}");
    assert!(left > Duration::from_millis(6500) && left <= Duration::from_millis(7590), "{left:?}");
}

#[test]
fn what_can_not_be_right_is_refused_at_once() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let make = |config: EtcdConfig| {
            let end = tokio_util::sync::CancellationToken::new();
            let clock = lockd_proto::clock::Clock::system();
            lockd::log::etcd::EtcdLog::new(
                config,
                &lockd::telemetry::tasks::Tasks::default(),
                &end,
                clock,
            )
        };
        assert!(make(EtcdConfig::new(vec![], "p/")).is_err());
        let mut short = EtcdConfig::new(vec!["http://127.0.0.1:1".to_owned()], "p/");
        short.lease = Duration::from_secs(1);
        assert!(make(short).is_err());
        for bad in ["", "-", "two words"] {
            let mut named = EtcdConfig::new(vec!["http://127.0.0.1:1".to_owned()], "p/");
            named.accept_restored = Some(bad.to_owned());
            assert!(make(named).is_err(), "{bad}");
        }
    });
}
