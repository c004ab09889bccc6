//! Nothing is left behind, and the check that says so sees what is.

use std::time::Duration;

use integration_tests::eventually;
use lockd_client::{
    Client, Context,
    leak::{self, Leak},
};
use tokio::{runtime::Handle, time::Instant};

use crate::world::{SOON, World, acquire_later, both_stores, free, soon, waiters};

both_stores!(cycles_of_acquire_and_cancel_end_where_they_began);

/// How much more memory may be resident afterwards, in KiB.
const ALLOWANCE: u64 = 1024;

/// Resident memory in KiB, of this process or of another.
fn resident(pid: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Acquires a lock that is held, and gives up at once, soon, or when it waits.
async fn cycles(client: &Client, count: u32) {
    let held = client.lock("cycles").acquire(&soon()).await.unwrap();
    let mut running = tokio::task::JoinSet::new();
    for n in 0..count {
        let lock = client.lock("cycles");
        running.spawn(async move {
            let (ctx, cancel) = Context::background().with_cancel();
            let giving_up = async {
                for _ in 0..n % 40 {
                    tokio::task::yield_now().await;
                }
                cancel.cancel();
            };
            tokio::join!(lock.acquire(&ctx), giving_up).0.unwrap_err();
        });
        if running.len() >= 32 {
            running.join_next().await.unwrap().unwrap();
        }
    }
    running.join_all().await;
    held.release().await.unwrap();
    free(client, "cycles").await;
}

async fn cycles_of_acquire_and_cancel_end_where_they_began(world: World) {
    let client = world.client().await;
    let pid = world.daemons.first().unwrap().pid().to_string();
    // etcd takes one entry of a queue in a write, and those that gave up have to be written too.
    let count = if world.daemons.len() == 1 { 10_000 } else { 200 };
    // Buffers and pools have their size after a while of the same kind.
    cycles(&client, count).await;
    let tasks = || Handle::current().metrics().num_alive_tasks();
    let sessions = client.status().await.unwrap().sessions;
    let before = (tasks(), resident("self"), resident(&pid));
    cycles(&client, count).await;
    eventually("as many tasks as before", SOON, async || tasks() <= before.0).await;
    let after = client.status().await.unwrap();
    assert_eq!((after.locks, after.waiters, after.sessions), (0, 0, sessions));
    for (whose, before, pid) in [("client", before.1, "self"), ("daemon", before.2, pid.as_str())] {
        let grown = resident(pid).saturating_sub(before);
        assert!(grown <= ALLOWANCE, "the {whose} has grown by {grown} KiB, from {before}");
    }
}

#[tokio::test]
async fn a_scenario_that_leaves_nothing_passes_at_once() {
    let world = World::embedded().await;
    let client = world.client().await;
    drop(client.lock("dropped").acquire(&soon()).await.unwrap());
    let start = Instant::now();
    leak::check(&client).await.unwrap();
    assert!(start.elapsed() < SOON / 2, "{:?}", start.elapsed());
}

#[tokio::test]
async fn guards_and_waiters_are_named() {
    let world = World::embedded().await;
    let client = world.client().await;
    let guard = client.lock("forgotten").acquire(&soon()).await.unwrap();
    let waiting = acquire_later(&client, "forgotten");
    waiters(&client, "forgotten", 1).await;
    let leaks = leak::check(&client).await.unwrap_err();
    let waiter = Leak::Waiter { lock: "forgotten".to_owned() };
    let held = Leak::Guard { lock: Some("forgotten".to_owned()), token: guard.token() };
    assert!(leaks.leaks().len() == 2 && leaks.leaks().contains(&waiter), "{leaks}");
    assert!(leaks.leaks().contains(&held), "{leaks}");
    assert!(leaks.to_string().starts_with("2 left behind:\n  "), "{leaks}");
    guard.release().await.unwrap();
    drop(waiting.await.unwrap());
    leak::check(&client).await.unwrap();
}

#[tokio::test]
async fn clean_up_that_does_not_end_is_named() {
    let world = World::embedded().await;
    let client = world.client().await;
    let postgres = integration_tests::Postgres::start().await;
    let url = postgres.url();
    let manager = deadpool_postgres::Manager::new(url.parse().unwrap(), tokio_postgres::NoTls);
    let pool = deadpool_postgres::Pool::builder(manager).max_size(1).build().unwrap();
    let ctx = Context::background();
    let mut query = Box::pin(async {
        let commands = ctx.postgres(&pool);
        commands.execute("SELECT pg_sleep(60)", &[]).await
    });
    assert!(tokio::time::timeout(Duration::from_millis(500), &mut query).await.is_err());
    postgres.pause().await;
    drop(query);
    // It has its limit, so this is seen for a while only.
    let names = lockd_client::leak::tasks();
    assert_eq!(names, ["postgres: settle"]);
    leak::check(&client).await.unwrap();
    postgres.unpause().await;
}
