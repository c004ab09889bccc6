//! A client in another language takes part as an equal: `python/lockd.py`, over unary calls.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use integration_tests::{Mode, Proxy, eventually};
use lockd_client::{Client, Context};
use rustix::time::{ClockId, clock_gettime};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::OnceCell,
    task::JoinSet,
};

use crate::world::{SOON, World, acquire_later, both_stores, free, soon, waiters};

both_stores!(
    python_and_rust_count_without_a_lost_update,
    a_python_holder_is_followed_in_order,
    a_python_waiter_follows_in_order,
    a_python_client_knows_of_its_loss_before_a_rust_waiter_is_granted,
);

/// Two interpreters start and take turns with two other clients on a machine that is busy.
const LONG: Duration = Duration::from_secs(60);

/// The TTL of `conformance.py lose`.
const LEASE: Duration = Duration::from_secs(3);

/// How late answers reach the client that loses its lock: more than its margin of 310 ms, so that it
/// believes for too long if it counts from the answer; less than it waits for one.
const LATE: Duration = Duration::from_millis(800);

/// A running `conformance.py`. It is killed with its value.
struct Python {
    child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Python {
    async fn start(addr: std::net::SocketAddr, args: &[&str]) -> Self {
        let mut child = Command::new(interpreter().await)
            .arg(folder().join("conformance.py"))
            .arg(addr.to_string())
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, stdin, lines: BufReader::new(stdout).lines() }
    }

    /// Takes part at one of the replicas.
    async fn at(world: &World, replica: usize, args: &[&str]) -> Self {
        let daemon = &world.daemons[replica % world.daemons.len()];
        Self::start(daemon.grpc_addr(), args).await
    }

    /// The next line that it prints; `None` once it has ended.
    async fn line(&mut self) -> Option<String> {
        let line = tokio::time::timeout(LONG, self.lines.next_line()).await;
        line.expect("python prints a line in time").unwrap()
    }

    /// The next line, which is a token.
    async fn token(&mut self) -> u64 {
        self.line().await.expect("a token").parse().unwrap()
    }

    /// Lets it go on from where it waits.
    async fn go_on(&mut self) {
        self.stdin.write_all(b"\n").await.unwrap();
    }

    async fn ends_well(mut self) {
        let ended = tokio::time::timeout(SOON, self.child.wait()).await;
        assert!(ended.expect("python ends").unwrap().success());
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("python")
}

/// The interpreter that has what the client needs. Prepared once; the script sees to it that other
/// test processes wait.
async fn interpreter() -> &'static Path {
    static PREPARED: OnceCell<PathBuf> = OnceCell::const_new();
    PREPARED.get_or_init(prepare).await
}

async fn prepare() -> PathBuf {
    let ran = Command::new(folder().join("setup.sh")).kill_on_drop(true).output().await.unwrap();
    let stderr = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "the environment of the Python client: {}\n{stderr}", ran.status);
    PathBuf::from(String::from_utf8(ran.stdout).unwrap().trim_end())
}

async fn python_and_rust_count_without_a_lost_update(world: World) {
    const ROUNDS: u64 = 12;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("count");
    std::fs::write(&file, "0").unwrap();
    // Held until all wait: otherwise the last interpreter may start when the others are through. The
    // Python processes wait side by side, so that they would be in together if they could.
    let starter = world.client().await;
    let held = starter.lock("counted").acquire(&soon()).await.unwrap();
    let mut counting = JoinSet::new();
    for replica in 0..2 {
        let args = ["count", "counted", file.to_str().unwrap(), &ROUNDS.to_string()];
        let mut python = Python::at(&world, replica, &args).await;
        counting.spawn(async move {
            let mut tokens = Vec::new();
            while let Some(line) = python.line().await {
                tokens.push(line.parse().unwrap());
            }
            python.ends_well().await;
            tokens
        });
    }
    waiters(&starter, "counted", 2).await;
    for client in [world.client().await, world.other_client().await] {
        counting.spawn(count(client, file.clone(), ROUNDS));
    }
    waiters(&starter, "counted", 4).await;
    held.release().await.unwrap();
    let mut all: Vec<u64> = Vec::new();
    while let Some(tokens) = counting.join_next().await {
        let tokens = tokens.unwrap();
        assert!(tokens.is_sorted_by(|earlier, later| earlier < later), "tokens grow: {tokens:?}");
        all.extend(tokens);
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), (4 * ROUNDS).to_string());
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len() as u64, 4 * ROUNDS, "no token was given out twice");
}

/// What `conformance.py count` does.
async fn count(client: Client, file: PathBuf, rounds: u64) -> Vec<u64> {
    let mut tokens = Vec::new();
    for _ in 0..rounds {
        let patience = Context::background().with_timeout(LONG);
        let guard = client.lock("counted").acquire(&patience).await.unwrap();
        let number: u64 = std::fs::read_to_string(&file).unwrap().parse().unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
        guard.check().unwrap();
        std::fs::write(&file, (number + 1).to_string()).unwrap();
        tokens.push(guard.token().get());
        guard.release().await.unwrap();
    }
    client.shutdown().await;
    tokens
}

async fn a_python_holder_is_followed_in_order(world: World) {
    let client = world.other_client().await;
    let mut python = Python::at(&world, 0, &["hold", "turns"]).await;
    let first = python.token().await;
    let second = acquire_later(&client, "turns");
    waiters(&client, "turns", 1).await;
    let third = acquire_later(&client, "turns");
    waiters(&client, "turns", 2).await;
    assert!(!second.is_finished());
    python.go_on().await;
    assert_eq!(python.line().await.as_deref(), Some("RELEASED"));
    let second = second.await.unwrap();
    assert!(second.token().get() > first, "tokens grow with every grant");
    assert!(!third.is_finished(), "nobody overtakes");
    let before = second.token();
    second.release().await.unwrap();
    assert!(third.await.unwrap().token() > before);
    python.ends_well().await;
}

async fn a_python_waiter_follows_in_order(world: World) {
    let client = world.client().await;
    let held = client.lock("turns").acquire(&soon()).await.unwrap();
    let mut python = Python::at(&world, 1, &["hold", "turns"]).await;
    waiters(&client, "turns", 1).await;
    let last = acquire_later(&client, "turns");
    waiters(&client, "turns", 2).await;
    let first = held.token().get();
    held.release().await.unwrap();
    let second = python.token().await;
    assert!(second > first, "tokens grow with every grant");
    assert!(!last.is_finished(), "nobody overtakes");
    python.go_on().await;
    assert_eq!(python.line().await.as_deref(), Some("RELEASED"));
    let last = last.await.unwrap();
    assert!(last.token().get() > second);
    last.release().await.unwrap();
    free(&client, "turns").await;
    python.ends_well().await;
}

async fn a_python_client_knows_of_its_loss_before_a_rust_waiter_is_granted(world: World) {
    let client = world.client().await;
    let link = Proxy::start(world.daemons[0].grpc_addr().to_string()).await;
    let mut python = Python::start(link.addr(), &["lose", "lost"]).await;
    let token = python.token().await;
    let waiter = acquire_later(&client, "lost");
    waiters(&client, "lost", 1).await;
    // From here on the client has several keepalives of which it hears late, and still holds.
    link.set(Mode::Latency(LATE / 2)).await;
    eventually("the lease is kept alive beyond its TTL", SOON, async || {
        client.get("lost").await.unwrap().unwrap().holders[0].age > LEASE + LATE
    })
    .await;
    assert!(!waiter.is_finished());
    python.go_on().await;
    let granted = async {
        let guard = waiter.await.unwrap();
        (guard.token().get(), monotonic_now())
    };
    let (lost, (next, granted_at)) = tokio::join!(python.line(), granted);
    let lost = lost.expect("the client says that it lost the lock");
    let figures: Vec<f64> = lost.split(' ').map(|figure| figure.parse().unwrap()).collect();
    let &[lost_after, sure_for, sure_at] = figures.as_slice() else { panic!("{lost:?}") };
    assert!(sure_at < granted_at, "sure at {sure_at}, and another was granted at {granted_at}");
    let safe_for = (LEASE - lockd_proto::safety_margin(LEASE)).as_secs_f64();
    assert!(sure_for <= safe_for, "sure for {sure_for} s: the margin is missing");
    assert!(lost_after >= safe_for, "lost after {lost_after} s: before it had to be");
    assert!(next > token);
    python.ends_well().await;
}

/// The clock of Python's `time.monotonic()`: all processes of a machine read the same one.
fn monotonic_now() -> f64 {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::try_from(now).unwrap().as_secs_f64()
}
