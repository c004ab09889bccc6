//! Nothing is left behind, and the check that says so sees what is.

use std::{path::PathBuf, process::Stdio, sync::Mutex, time::Duration};

use integration_tests::{Daemon, daemon::lockd_binary, eventually};
use lockd_client::{
    Context,
    leak::{self, Leak},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    net::UnixStream,
    process::{Child, ChildStdin, ChildStdout, Command},
    time::Instant,
};

use crate::world::{SOON, World, acquire_later, both_stores, soon, waiters};

both_stores!(cycles_of_acquire_and_cancel_end_where_they_began);

/// How much more memory may be allocated after each round, in KiB: 13 bytes for one of 10,000 cycles.
const ALLOWANCE: u64 = 128;

/// How often a lock is asked for and given up in each round.
const CYCLES: u32 = 10_000;

/// How often all cycles are made again.
const ROUNDS: usize = 3;

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

/// The daemon with its allocations counted.
struct Counted {
    dir: tempfile::TempDir,
}

impl Counted {
    /// Takes the place of a daemon.
    async fn instead_of(daemon: &mut Daemon) -> Self {
        let counted = Self { dir: tempfile::tempdir().unwrap() };
        let (program, socket) =
            (lockd_binary().with_file_name("examples").join("counted"), counted.socket());
        daemon.restart_as(program, "COUNTED_SOCKET", socket.as_os_str()).await;
        counted
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    /// What it has allocated, in KiB, when it has come to rest.
    async fn at_rest(&self) -> u64 {
        let before = Mutex::new(0);
        eventually("the daemon comes to rest", SOON, async || {
            let now = self.allocated().await;
            let before = std::mem::replace(&mut *before.lock().unwrap(), now);
            if now == before { Ok(now) } else { Err(format!("{now} KiB, {before} before")) }
        })
        .await
    }

    async fn allocated(&self) -> u64 {
        let mut reader = UnixStream::connect(self.socket()).await.unwrap();
        let mut said = String::new();
        reader.read_to_string(&mut said).await.unwrap();
        said.parse::<u64>().unwrap() / 1024
    }
}

/// What is kept of a cycle is kept of each, so that every round adds to it. A buffer that has become
/// larger, or a page that is cached, stays as it is in the next one.
async fn cycles_of_acquire_and_cancel_end_where_they_began(mut world: World) {
    let counted = Counted::instead_of(world.first()).await;
    let client = world.client().await;
    let mut cycles = Cycles::start(&world.first().url(), CYCLES);
    let mut before = (cycles.round().await, counted.at_rest().await);
    let sessions = client.status().await.unwrap().sessions;
    let mut least = (u64::MAX, u64::MAX);
    for _ in 0..ROUNDS {
        cycles.orders.write_all(b"again\n").await.unwrap();
        let after = (cycles.round().await, counted.at_rest().await);
        let status = client.status().await.unwrap();
        assert_eq!((status.locks, status.waiters, status.sessions), (0, 0, sessions));
        let grown = (after.0.saturating_sub(before.0), after.1.saturating_sub(before.1));
        least = (least.0.min(grown.0), least.1.min(grown.1));
        before = after;
    }
    assert!(least.0 <= ALLOWANCE, "the client grows by {} KiB in each round", least.0);
    assert!(least.1 <= ALLOWANCE, "the daemon grows by {} KiB in each round", least.1);
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
