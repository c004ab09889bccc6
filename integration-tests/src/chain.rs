//! The example `order_service`, HTTP → gRPC → lock → Redis → Postgres, in a process of its own, and
//! callers that hang up on it.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

use crate::{Daemon, Postgres, Redis, StoreKind, daemon::lockd_binary, eventually, unique_name};

/// How long the service may take to start.
const START: Duration = Duration::from_secs(20);

/// How many callers there are at a time: more than the service has connections to Postgres.
const CALLERS: usize = 16;

/// How much later than the last caller has gone nothing is to be left.
const LATER: Duration = Duration::from_secs(1);

/// The service, and the daemon that it has its locks from. Both end with it.
pub struct Chain {
    http: SocketAddr,
    child: Child,
    /// The name of its connections to Postgres.
    name: String,
    tasks: u64,
    _daemon: Daemon,
    _dir: tempfile::TempDir,
}

/// What is still there.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// Queries at the server, and transactions that are open.
    pub queries: u64,
    /// Locks held.
    pub locks: u64,
    /// Entries that wait.
    pub waiters: u64,
    /// Tasks of the service beyond those that it had before.
    pub tasks: u64,
    /// Connections of its pool that are lent or missing.
    pub permits: u64,
}

impl Chain {
    /// Starts it all; an order keeps the database busy for `work`.
    ///
    /// # Panics
    /// When something does not come up.
    pub async fn start(work: Duration, propagation: &str) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let store = StoreKind::Embedded { dir: dir.path().join("data") };
        let daemon = Daemon::builder().store(store).start().await;
        let (postgres, redis) = (Postgres::shared().await, Redis::shared().await);
        let (http, name) = (free_port().await, unique_name("chain"));
        let schema = format!("options=-csearch_path%3D{name}&application_name={name}");
        postgres.sql(&format!("CREATE SCHEMA {name}")).await;
        let child = Command::new(lockd_binary().with_file_name("examples").join("order_service"))
            .env("LOCKD_ADDR", daemon.url())
            // Tokens begin anew with this daemon: their fences in the shared Redis must too.
            .env("LOCKD_NAMESPACE", &name)
            .env("LOCKD_DEADLINE_PROPAGATION", propagation)
            .env("DATABASE_URL", format!("{}?{schema}", postgres.url()))
            .env("REDIS_URL", redis.url())
            .env("ORDER_HTTP", http.to_string())
            .env("ORDER_GRPC", "127.0.0.1:0")
            .env("ORDER_WORK_MS", work.as_millis().to_string())
            .env("RUST_LOG", "error")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("the example is built: `make build`");
        let chain = Self { http, child, name, tasks: 0, _daemon: daemon, _dir: dir };
        eventually("the service answers", START, async || chain.try_status().await).await;
        chain
    }

    /// Places an order, and gives back the head of the answer.
    ///
    /// # Errors
    /// The connection breaks.
    pub async fn order(&self, item: &str, headers: &str) -> std::io::Result<String> {
        self.call("POST", &format!("/orders/{item}"), headers).await
    }

    /// Has `count` callers hang up, each at some moment within `moments`, several at a time. Those before
    /// are not counted: they bring all pools and connections to their size.
    ///
    /// # Panics
    /// When an order cannot be placed.
    pub async fn hang_up(&mut self, count: u64, moments: Duration) {
        let answer = self.order("chair", "").await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        self.callers(2 * CALLERS as u64, moments).await;
        tokio::time::sleep(LATER).await;
        self.tasks = tasks(&self.status().await);
        self.callers(count, moments).await;
    }

    /// Has one caller hang up while its query runs.
    ///
    /// # Panics
    /// When no query is seen.
    pub async fn hang_up_on_a_query(&self) {
        let mut stream = TcpStream::connect(self.http).await.expect("the service accepts");
        let request = request("POST", "/orders/chair", "");
        stream.write_all(request.as_bytes()).await.expect("the service reads");
        eventually("its query runs", START, async || match self.queries().await {
            0 => Err("none does"),
            _ => Ok(()),
        })
        .await;
    }

    async fn callers(&self, count: u64, moments: Duration) {
        let mut callers = JoinSet::new();
        let moments = u64::try_from(moments.as_micros()).unwrap_or(u64::MAX);
        for n in 0..count {
            let http = self.http;
            callers.spawn(async move {
                let item = ["chair", "table", "lamp", "shelf"][usize::try_from(n % 4).unwrap_or(0)];
                let mut stream = TcpStream::connect(http).await.expect("the service accepts");
                let request = request("POST", &format!("/orders/{item}"), "");
                stream.write_all(request.as_bytes()).await.expect("the service reads");
                let moment = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
                tokio::time::sleep(Duration::from_micros(moment % moments)).await;
            });
            if callers.len() >= CALLERS {
                callers.join_next().await;
            }
        }
        callers.join_all().await;
    }

    /// What is left a second after the last caller has gone.
    pub async fn left(&self) -> Left {
        tokio::time::sleep(LATER).await;
        let queries = self.queries().await;
        let status = self.status().await;
        let number = |key: &str| status[key].as_u64().unwrap_or_default();
        Left {
            queries,
            locks: number("locks_held"),
            waiters: number("waiters"),
            tasks: tasks(&status).saturating_sub(self.tasks),
            permits: number("connections") - number("connections_idle"),
        }
    }

    async fn queries(&self) -> u64 {
        let running = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = '{}' AND state <> 'idle'",
            self.name
        );
        let count = Postgres::shared().await.sql(&running).await;
        count.parse().expect("a number")
    }

    /// Ends it by `SIGINT`, as ^C does; whether it ended well.
    ///
    /// # Panics
    /// When it does not end.
    pub async fn interrupt(mut self) -> bool {
        let pid = self.child.id().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed()));
        let signal = rustix::process::Signal::INT;
        rustix::process::kill_process(pid.expect("it runs"), signal).expect("it is our child");
        let ended = tokio::time::timeout(START, self.child.wait()).await;
        ended.expect("it ends").expect("it is our child").success()
    }

    /// What the service says of itself.
    pub async fn status(&self) -> Value {
        self.try_status().await.expect("the service answers")
    }

    async fn try_status(&self) -> Result<Value, String> {
        let answer = self.call("GET", "/status", "").await.map_err(|error| error.to_string())?;
        let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
        serde_json::from_str(body).map_err(|error| format!("{error}: {answer}"))
    }

    async fn call(&self, method: &str, path: &str, headers: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(self.http).await?;
        stream.write_all(request(method, path, headers).as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }
}

/// The service's tasks, but for the one that each connection to Postgres has.
fn tasks(status: &Value) -> u64 {
    let number = |key: &str| status[key].as_u64().unwrap_or_default();
    number("tasks").saturating_sub(number("connections"))
}

fn request(method: &str, path: &str, headers: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n{headers}\r\n")
}

async fn free_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    listener.local_addr().expect("an address")
}
