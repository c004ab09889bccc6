//! What else etcd can be: full, guarded by passwords, meddled with.

use std::time::Duration;

use etcd_client::{
    AlarmAction, AlarmOptions, AlarmType, Client, CompactionOptions, DeleteOptions, PutOptions,
};
use integration_tests::{Etcd, EtcdCluster, eventually, unique_prefix};
use lockd::store::{Guard, Join, Outcome, StoreError, etcd::EtcdConfig};
use lockd_proto::Ttl;

use super::fixture::{Fixture, LONG, delete, entry, key, lease_id, put};

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

/// Whoever waits can't join, whoever holds goes on and releases.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_etcd_takes_deletes_and_keepalives_and_says_that_it_is_full() {
    let etcd = Etcd::builder().arg("--quota-backend-bytes=1048576").start().await;
    let on = Fixture::on(etcd.endpoints(), unique_prefix()).await;
    let session = on.session(LONG).await;
    let at = on.joins(&session, "q/", "a").await;
    let mut client = etcd.client().await;
    let mut number = 0;
    eventually("etcd is full", Duration::from_secs(20), async || {
        number += 1;
        let filled = client.put(format!("fill/{number}"), vec![b'x'; 256 * 1024], None).await;
        filled.err().filter(|error| error.to_string().contains("space"))
    })
    .await;
    let granted = on.store.grant_lease(lease_id(), Ttl::granted(LONG)).await;
    assert!(matches!(granted, Err(StoreError::Full(_))), "{granted:?}");
    let mut number = 0;
    eventually("nobody joins a queue", Duration::from_secs(5), async || {
        number += 1;
        let joined = on.try_one(entry(&session, "q/", &format!("{number}"), Join::Always)).await;
        matches!(joined, Err(StoreError::Full(_)))
    })
    .await;
    on.store.keep_alive(session.lease).await.unwrap();
    assert!(matches!(on.commit_one(delete("q/a", Guard::At(at))).await, Outcome::Done(_)));
    on.store.revoke_lease(session.lease).await.unwrap();
    make_room(&mut client).await;
    eventually("sessions open again", Duration::from_secs(10), async || {
        let granted = on.store.grant_lease(lease_id(), Ttl::granted(LONG)).await;
        granted.is_ok()
            && on
                .store
                .commit(vec![put(&key("k"), "", on.lease(LONG).await, Guard::Absent)])
                .await
                .is_ok()
    })
    .await;
}

/// An outcome that is unknown is settled on a full cluster too: the fence can be raised.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_etcd_lets_the_fence_be_raised() {
    let etcd = Etcd::builder().arg("--quota-backend-bytes=1048576").start().await;
    let prefix = unique_prefix();
    let on = Fixture::on(etcd.endpoints(), prefix.clone()).await;
    let session = on.session(LONG).await;
    let at = on.joins(&session, "q/", "a").await;
    let mut client = etcd.client().await;
    let fence = format!("{prefix}fence");
    // A fence that is gone has to be raised by the next commit.
    client.put(fence.clone(), "", None).await.unwrap();
    on.commit_one(put(&session.key, "", session.lease, Guard::Exists)).await;
    client.delete(fence.clone(), None).await.unwrap();
    eventually("etcd is full", Duration::from_secs(20), async || {
        let filled = client.put("fill", vec![b'x'; 256 * 1024], None).await;
        filled.err().filter(|error| error.to_string().contains("space"))
    })
    .await;
    let left = tokio::time::timeout(LONG / 6, on.commit_one(delete("q/a", Guard::At(at)))).await;
    assert!(matches!(left, Ok(Outcome::Done(_))), "{left:?}");
    assert_eq!(client.get(fence, None).await.unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_go_on_after_somebody_deleted_the_fence() {
    let etcd = Etcd::shared().await;
    let prefix = unique_prefix();
    let on = Fixture::on(etcd.endpoints(), prefix.clone()).await;
    let session = on.session(LONG).await;
    let mut client = etcd.client().await;
    let fence = format!("{prefix}fence");
    client.put(fence.clone(), "raised by another replica", None).await.unwrap();
    on.joins(&session, "q/", "a").await;
    client.delete(fence.clone(), None).await.unwrap();
    on.joins(&session, "q/", "b").await;
    assert_eq!(client.get(fence, None).await.unwrap().count(), 1, "it is there again");
}

/// The first attempt is unknown, the second finds a lease gone: each operation still has its
/// own outcome.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_of_unknown_outcome_with_a_lease_that_is_gone_is_settled() {
    let cluster = EtcdCluster::start(3).await;
    let frozen = (cluster.leader().await + 1) % 3;
    let mut endpoints = cluster.endpoints();
    endpoints.rotate_left(frozen);
    let on = Fixture::on(endpoints, unique_prefix()).await;
    let session = on.session(LONG).await;
    cluster.pause(frozen).await;
    let batch = vec![
        entry(&session, "q/", "a", Join::Always),
        put(&key("k"), "1", lease_id(), Guard::Absent),
        put(&session.key, "2", session.lease, Guard::Exists),
    ];
    let outcomes = tokio::time::timeout(Duration::from_secs(10), on.store.commit(batch));
    let outcomes = outcomes.await.expect("it ends").unwrap();
    assert!(matches!(outcomes[0], Outcome::Enqueued { .. }), "{outcomes:?}");
    assert_eq!(outcomes[1], Outcome::Refused(None));
    assert!(matches!(outcomes[2], Outcome::Done(_)), "{outcomes:?}");
}

/// A token of etcd's runs out; the store logs in again by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_is_used_and_its_token_is_renewed() {
    let etcd = Etcd::builder().arg("--auth-token-ttl=1").start().await;
    let mut client = etcd.client().await;
    client.user_add("root", "secret", None).await.unwrap();
    client.role_add("root").await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    client.auth_enable().await.unwrap();
    let nobody = client.put("k", "", Some(PutOptions::new())).await;
    assert!(nobody.is_err(), "{nobody:?}");

    let config = |password: &str| EtcdConfig {
        endpoints: etcd.endpoints(),
        prefix: unique_prefix(),
        user: Some(("root".to_owned(), password.to_owned())),
        tls: None,
    };
    let refused = Fixture::try_with(config("wrong")).await.map(drop);
    assert!(matches!(&refused, Err(StoreError::Broken(_))), "{refused:?}");
    let on = Fixture::try_with(config("secret")).await.unwrap();
    let session = on.session(LONG).await;
    let (_, mut feed) = on.watch().await;
    for name in ["a", "b"] {
        let at = on.joins(&session, "q/", name).await;
        assert_eq!(super::fixture::changes(&mut feed).await.0, at);
        // For longer than a token lives. Nothing can be asked meanwhile: any use of one prolongs it.
        tokio::time::sleep(Duration::from_secs(3)).await;
        on.store.keep_alive(session.lease).await.unwrap();
    }
}
