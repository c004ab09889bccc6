//! Who holds a lock no longer can't commit, whatever it believes.

use std::time::Duration;

use lockd_client::{
    Cause, Client, ErrorKind, Guard,
    postgres::{FENCE_TABLE, Transaction},
};
use tokio::sync::oneshot;

use super::{Db, all_back, all_idle, both_drivers, pool};
use crate::world::{World, client_of, soon};

both_drivers!(
    a_stale_holder_is_refused_and_told_of_both_tokens,
    a_later_holder_waits_for_the_one_that_is_at_it,
    several_locks_are_fenced_as_one,
    a_lost_lock_ends_its_transaction,
    without_its_table_the_error_says_what_to_do,
    only_a_lock_with_one_holder_fences,
);

/// A pool whose tables are in a schema of the test's own, with or without the fence.
async fn own_schema<D: Db>(size: u32, with_fence: bool) -> (D, String) {
    let (pool, name) = pool::<D>(1).await;
    let fence = if with_fence { FENCE_TABLE } else { "" };
    let make = async |tx: &mut Transaction<D>| {
        let schema = format!("CREATE SCHEMA {name}; SET LOCAL search_path = {name}; {fence}");
        D::run(tx, format!("{schema}; CREATE TABLE account AS SELECT 100 AS balance")).await
    };
    soon().postgres(&pool).transaction(make).await.unwrap();
    let url = integration_tests::Postgres::shared().await.url();
    let options = format!("application_name={name}&options=-csearch_path%3D{name}");
    (D::connect(&format!("{url}?{options}"), size), name)
}

async fn set<D: Db>(
    tx: &mut Transaction<D>,
    balance: u32,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    D::run(tx, format!("UPDATE account SET balance = {balance}")).await
}

async fn balance<D: Db>(pool: &D) -> String {
    let ask = async |tx: &mut Transaction<D>| {
        D::ask(tx, "SELECT balance::text FROM account".into()).await
    };
    soon().postgres(pool).transaction(ask).await.unwrap()
}

/// Takes the lock from its holder, and acquires it.
async fn overtake(client: &Client, guard: &Guard) -> Guard {
    let name = guard.name().as_str();
    client.force_release(name, guard.token(), "the test wants it").await.unwrap();
    client.lock(name).acquire(&soon()).await.unwrap()
}

async fn a_stale_holder_is_refused_and_told_of_both_tokens<D: Db>() {
    let world = World::embedded().await;
    let client = world.client().await;
    let (pool, name) = own_schema::<D>(2, true).await;
    let stale = client.lock("account").acquire(&soon()).await.unwrap();
    stale.postgres(&pool).transaction(async |tx| set(tx, 200).await).await.unwrap();
    let later = overtake(&client, &stale).await;
    later.postgres(&pool).transaction(async |tx| set(tx, 300).await).await.unwrap();
    // In a context that has not heard of the loss, as that of a process that was paused.
    let late = soon().postgres(&pool).fenced(&stale);
    let error = late.transaction(async |tx| set(tx, 400).await).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
    let fenced = error.fenced().unwrap();
    assert_eq!((fenced.ours, fenced.stored), (stale.token(), later.token()));
    assert!(
        error.to_string().starts_with("postgres transaction \"default/account\": fenced"),
        "{error}"
    );
    // And the holder goes on.
    later.postgres(&pool).transaction(async |tx| set(tx, 500).await).await.unwrap();
    assert_eq!(balance(&pool).await, "500");
    all_back(&pool).await;
    all_idle(&name).await;
}

async fn a_later_holder_waits_for_the_one_that_is_at_it<D: Db>() {
    let world = World::embedded().await;
    let client = world.client().await;
    let (pool, _name) = own_schema::<D>(2, true).await;
    let early = client.lock("account").acquire(&soon()).await.unwrap();
    let late = overtake(&client, &early).await;
    let (wrote, written) = oneshot::channel();
    let (go_on, going_on) = oneshot::channel::<()>();
    let first = soon().postgres(&pool).fenced(&early);
    let first = first.transaction(async |tx| {
        set(tx, 1).await?;
        wrote.send(()).unwrap();
        going_on.await?;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
    });
    let second = async {
        written.await.unwrap();
        let mut second =
            Box::pin(async { late.postgres(&pool).transaction(async |tx| set(tx, 2).await).await });
        let waits = tokio::time::timeout(Duration::from_millis(300), &mut second).await;
        assert!(waits.is_err(), "it has to wait for the transaction before it");
        go_on.send(()).unwrap();
        second.await
    };
    let (first, second) = tokio::join!(first, second);
    // It wrote before the later holder did, so it was in order.
    first.unwrap();
    second.unwrap();
    assert_eq!(balance(&pool).await, "2");
}

async fn several_locks_are_fenced_as_one<D: Db>() {
    let world = World::embedded().await;
    let client = world.client().await;
    let (pool, _name) = own_schema::<D>(2, true).await;
    let both = client.lock_all(["b", "a"]).acquire(&soon()).await.unwrap();
    both.postgres(&pool).transaction(async |tx| set(tx, 1).await).await.unwrap();
    client.force_release("a", both.token(), "the test wants it").await.unwrap();
    let one = client.lock("a").acquire(&soon()).await.unwrap();
    one.postgres(&pool).transaction(async |tx| set(tx, 2).await).await.unwrap();
    let late = soon().postgres(&pool).fenced(&both);
    let error = late.transaction(async |tx| set(tx, 3).await).await.unwrap_err();
    assert_eq!(error.fenced().unwrap().stored, one.token());
    assert_eq!(balance(&pool).await, "2");
}

async fn a_lost_lock_ends_its_transaction<D: Db>() {
    let world = World::embedded().await;
    let client = world.client().await;
    let (pool, name) = own_schema::<D>(2, true).await;
    let guard = client.lock("account").acquire(&soon()).await.unwrap();
    let postgres = guard.postgres(&pool);
    let sleeps = postgres.transaction(async |tx| {
        set(tx, 1).await?;
        D::run(tx, "SELECT pg_sleep(60)".into()).await
    });
    let losing = async {
        super::runs(&name, "pg_sleep").await;
        client.force_release("account", guard.token(), "the test wants it").await.unwrap();
    };
    let (ended, ()) = tokio::join!(sleeps, losing);
    let error = ended.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
    assert!(error.to_string().contains("lock that the context belongs to is lost"), "{error}");
    assert!(matches!(guard.context().cause(), Some(Cause::LockLost(_))));
    all_back(&pool).await;
    all_idle(&name).await;
    assert_eq!(balance(&pool).await, "100");
}

async fn without_its_table_the_error_says_what_to_do<D: Db>() {
    let world = World::embedded().await;
    let client = world.client().await;
    let (pool, _name) = own_schema::<D>(1, false).await;
    let guard = client.lock("account").acquire(&soon()).await.unwrap();
    let error = guard.postgres(&pool).transaction(async |tx| set(tx, 1).await).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
    assert!(error.to_string().contains("run `lockd fence init --postgres URL`"), "{error}");
}

async fn only_a_lock_with_one_holder_fences<D: Db>() {
    let world = World::embedded().await;
    let client = client_of(&world.daemons[0].url(), Duration::from_secs(6)).await;
    let (pool, _name) = own_schema::<D>(1, true).await;
    let shared = client.lock("account").shared().acquire(&soon()).await.unwrap();
    let error = shared.postgres(&pool).transaction(async |tx| set(tx, 1).await).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
}
