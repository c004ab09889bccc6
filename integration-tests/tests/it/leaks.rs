//! Nothing is left behind, and the check that says so sees what is.

use std::{process::Stdio, time::Duration};

use integration_tests::{daemon::lockd_binary, eventually, resident};
use lockd_client::{
    Context,
    leak::{self, Leak},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::Instant,
};

use crate::world::{SOON, World, acquire_later, both_stores, soon, waiters};

both_stores!(cycles_of_acquire_and_cancel_end_where_they_began);

/// How much more memory may be allocated or resident afterwards, in KiB.
const ALLOWANCE: u64 = 1024;

/// The client in a process of its own, whose memory no other test uses.
struct Cycles {
    _child: Child,
    orders: ChildStdin,
    said: Lines<BufReader<ChildStdout>>,
}

impl Cycles {
    fn start(url: &str, count: u32) -> Self {
        let mut child = Command::new(lockd_binary().with_file_name("cycles"))
            .args([url, &count.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the program is built: `make build`");
        let said = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { orders: child.stdin.take().unwrap(), said, _child: child }
    }

    /// What it has allocated in KiB after the next round, when its tasks are as many as after the first.
    async fn round(&mut self) -> u64 {
        let line = self.said.next_line().await.unwrap();
        line.expect("it says above what was left").parse().unwrap()
    }
}

async fn cycles_of_acquire_and_cancel_end_where_they_began(world: World) {
    let client = world.client().await;
    let daemon = world.daemons.first().unwrap();
    let pid = daemon.pid().to_string();
    // etcd takes one entry of a queue in a write, and those that gave up have to be written too.
    let count = if world.daemons.len() == 1 { 10_000 } else { 200 };
    let mut cycles = Cycles::start(&daemon.url(), count);
    // Buffers and pools have their size after a while of the same kind.
    let before = cycles.round().await;
    let (sessions, daemon_before) = (client.status().await.unwrap().sessions, resident(&pid));
    cycles.orders.write_all(b"again\n").await.unwrap();
    let after = cycles.round().await;
    let status = client.status().await.unwrap();
    assert_eq!((status.locks, status.waiters, status.sessions), (0, 0, sessions));
    assert!(after <= before + ALLOWANCE, "the client has grown from {before} to {after} KiB");
    // Its allocator gives back what is free, after a while.
    eventually("the daemon is no larger than it was", SOON, async || match resident(&pid) {
        more if more > daemon_before + ALLOWANCE => Err(format!("{more}, {daemon_before} before")),
        _ => Ok(()),
    })
    .await;
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
