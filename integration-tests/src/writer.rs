//! A holder that writes to Postgres and to Redis, fenced or not, and is stopped in the middle of it.

use std::process::Stdio;
use std::time::Duration;

use lockd_client::{Client, Context, Guard, redis::Redis};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::{Daemon, daemon::lockd_binary, database};

/// That of the writer which is stopped. Short, since each round waits for it to run out.
pub const TTL: Duration = Duration::from_secs(1);

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Writes its token to a table and to a list.
pub struct Writer {
    pool: deadpool_postgres::Pool,
    redis: Redis,
    name: String,
    fenced: bool,
}

impl Writer {
    /// # Panics
    /// When a URL is none.
    pub fn new(postgres: &str, redis: &str, name: &str, fenced: bool) -> Self {
        let config = postgres.parse().expect("a URL");
        let manager = deadpool_postgres::Manager::new(config, tokio_postgres::NoTls);
        let pool = deadpool_postgres::Pool::builder(manager).max_size(2).build().expect("a pool");
        let redis = redis::Client::open(redis).expect("a URL");
        let redis = Redis::new(redis).expect("a configuration");
        Self { pool, redis, name: name.to_owned(), fenced }
    }

    /// Writes once to each.
    ///
    /// # Errors
    /// The guard is stale, and a fence has seen it.
    pub async fn write(&self, guard: &Guard) -> Result<(), Failure> {
        let insert = format!("INSERT INTO {} (token) VALUES ($1)", self.name);
        let mut push = redis::cmd("RPUSH");
        push.arg(&self.name).arg(guard.token());
        if self.fenced {
            guard.postgres(&self.pool).execute(&insert, &[&guard.token()]).await?;
            return Ok(guard.redis(&self.redis).query(&push).await?);
        }
        let mut connection = self.pool.get().await?;
        let tx = connection.transaction().await?;
        tx.execute(&insert, &[&guard.token()]).await?;
        tx.commit().await?;
        Ok(Context::background().redis(&self.redis).query(&push).await?)
    }
}

/// What became of the writes of one name.
#[derive(Debug, Default, Clone, Copy)]
pub struct Writes {
    /// All of them, to Postgres.
    pub postgres: usize,
    /// Those that came after one of a later holder.
    pub postgres_stale: usize,
    /// All of them, to Redis.
    pub redis: usize,
    /// Those that came after one of a later holder.
    pub redis_stale: usize,
}

/// Stops a writer past its lease so many times, lets another holder write, and lets it go on.
///
/// # Panics
/// When something cannot be set up.
pub async fn stop_and_go(daemon: &Daemon, rounds: u32, name: &str, fenced: bool) -> Writes {
    let (postgres, redis) = (database::Postgres::shared().await, database::Redis::shared().await);
    postgres.sql(&format!("CREATE TABLE {name} (id bigserial, token bigint)")).await;
    let urls = [daemon.url(), postgres.url(), redis.url()];
    let mut stopped = Stopped::start(&urls, name, fenced);
    let client = Client::builder().addrs(daemon.url()).connect().await.expect("lockd");
    let writer = Writer::new(&urls[1], &urls[2], name, fenced);
    for round in 0..rounds {
        stopped.until("wrote").await;
        tokio::time::sleep(Duration::from_micros(u64::from(round).wrapping_mul(7919) % 60_000))
            .await;
        stopped.signal(Signal::STOP);
        let next =
            client.lock(name).acquire(&Context::background()).await.expect("the next holder");
        writer.write(&next).await.expect("the holder writes");
        stopped.signal(Signal::CONT);
        stopped.until("lost").await;
        next.release().await.expect("the holder releases");
    }
    drop(stopped);
    client.shutdown().await;
    let tokens = postgres.sql(&format!("SELECT token FROM {name} ORDER BY id")).await;
    let tokens: Vec<u64> = tokens.lines().map(|token| token.parse().expect("a token")).collect();
    let list = writer.redis;
    let list = Context::background().redis(&list);
    let pushed: Vec<u64> =
        list.query(redis::cmd("LRANGE").arg(name).arg(0).arg(-1)).await.expect("a list");
    Writes {
        postgres: tokens.len(),
        postgres_stale: stale(&tokens),
        redis: pushed.len(),
        redis_stale: stale(&pushed),
    }
}

/// How many tokens follow a greater one.
fn stale(tokens: &[u64]) -> usize {
    let mut greatest = 0;
    let is_stale = |token: &&u64| {
        greatest = greatest.max(**token);
        **token < greatest
    };
    tokens.iter().filter(is_stale).count()
}

/// A `writer` in a process of its own. Killed with its value.
struct Stopped {
    child: Child,
    said: Lines<BufReader<ChildStdout>>,
}

impl Stopped {
    fn start(urls: &[String], name: &str, fenced: bool) -> Self {
        let program = lockd_binary().with_file_name("writer");
        let fenced = if fenced { "fenced" } else { "unfenced" };
        let mut child = Command::new(program)
            .args(urls)
            .args([name, fenced])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the writer is built: `make build`");
        let said = BufReader::new(child.stdout.take().expect("its output")).lines();
        Self { child, said }
    }

    /// Reads what it says until it is this.
    async fn until(&mut self, word: &str) {
        let said = async {
            while self.said.next_line().await.expect("its output").expect("it runs") != word {}
        };
        let in_time = tokio::time::timeout(Duration::from_secs(30), said).await;
        in_time.unwrap_or_else(|_| panic!("the writer does not say {word:?}"));
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        kill_process(pid.expect("it runs"), signal).expect("it is our child");
    }
}
