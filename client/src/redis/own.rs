//! Connections of their own for commands that block, and the way in which these are ended.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Client, Cmd, RedisResult, Value,
    aio::{ConnectionLike as _, ConnectionManager, MultiplexedConnection},
};
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::timeout,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::tasks;

/// How long a blocked command may take to end, before its connection is closed.
const SETTLE: Duration = Duration::from_secs(1);

/// How long a connection may take to say its id.
const OPEN: Duration = Duration::from_secs(5);

/// How long it may take once it is unblocked. It may have been on its way to the server when the
/// request overtook it: then it is unblocked again.
const UNBLOCKED: Duration = Duration::from_millis(20);

/// The connections on which commands block: as many as there are permits.
#[derive(Debug)]
pub(super) struct Own {
    permits: Arc<Semaphore>,
    /// A std mutex: it is held to push and pop only, never across an await.
    idle: Mutex<Vec<Connection>>,
}

/// A connection with a single user at a time.
#[derive(Clone)]
struct Connection {
    connection: MultiplexedConnection,
    /// What `CLIENT UNBLOCK` knows it by.
    id: i64,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connection({})", self.id)
    }
}

/// A connection that is lent to one command.
pub(super) struct Lent {
    connection: Connection,
    own: Arc<Own>,
    _permit: OwnedSemaphorePermit,
}

/// A command that blocks. Dropping it ends the command.
pub(super) struct Blocked {
    /// Its name, for what is lost with it.
    name: String,
    answer: oneshot::Receiver<Option<RedisResult<Value>>>,
    stop: CancellationToken,
    _stops: DropGuard,
}

impl Own {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        let permits = Arc::new(Semaphore::new(limit));
        Arc::new(Self { permits, idle: Mutex::new(Vec::new()) })
    }

    /// A connection, when there is room for one.
    pub(super) async fn lend(self: Arc<Self>, client: &Client) -> RedisResult<Lent> {
        let closed = |_| (redis::ErrorKind::Client, "the connections are closed");
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(closed)?;
        let connection = match self.alive().await {
            Some(connection) => connection,
            None => Connection::open(client).await?,
        };
        Ok(Lent { connection, own: self, _permit: permit })
    }

    /// One that was used before. The server may have ended it since, and what is sent on it now may
    /// not be repeated, so it is asked first: that costs less than a new connection.
    async fn alive(&self) -> Option<Connection> {
        loop {
            let mut idle = self.idle().pop()?;
            if id(&mut idle.connection).await.is_ok() {
                return Some(idle);
            }
        }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        // Nothing panics while it is held; the list would be whole all the same.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    async fn open(client: &Client) -> RedisResult<Self> {
        // It blocks for as long as its command says.
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        let id = id(&mut connection).await?;
        Ok(Self { connection, id })
    }
}

async fn id(connection: &mut MultiplexedConnection) -> RedisResult<i64> {
    let mut ask = redis::cmd("CLIENT");
    let id = timeout(OPEN, ask.arg("ID").query_async(connection)).await;
    let late = |_| (redis::ErrorKind::Io, "a connection has not answered");
    id.map_err(late)?
}

impl Lent {
    /// Sends a command that blocks, in a task that sees to its end. `elsewhere` is the connection
    /// from which it can be unblocked.
    pub(super) fn send(self, command: Cmd, elsewhere: ConnectionManager) -> Blocked {
        let (tell, answer) = oneshot::channel();
        let name = super::blocking::name(&command);
        let stop = CancellationToken::new();
        let (stopped, its_name) = (stop.clone(), name.clone());
        let blocks = async move {
            let answer = self.answer(&command, &stopped, elsewhere).await;
            if let Err(Some(Ok(value))) = tell.send(answer) {
                lost(&its_name, &value);
            }
        };
        drop(tasks::in_background(&Handle::current(), "redis: a command that blocks", blocks));
        Blocked { name, answer, stop: stop.clone(), _stops: stop.drop_guard() }
    }

    /// `None` if there was none in time: the connection is closed then.
    async fn answer(
        self,
        command: &Cmd,
        stop: &CancellationToken,
        mut elsewhere: ConnectionManager,
    ) -> Option<RedisResult<Value>> {
        let Connection { mut connection, id } = self.connection.clone();
        let mut answer = connection.req_packed_command(command);
        let answer = tokio::select! {
            answer = &mut answer => Some(answer),
            () = stop.cancelled() => {
                let unblocked = async {
                    loop {
                        unblock(&mut elsewhere, id).await;
                        if let Ok(answer) = timeout(UNBLOCKED, &mut answer).await {
                            return answer;
                        }
                    }
                };
                timeout(SETTLE, unblocked).await.ok()
            }
        };
        if answer.as_ref().is_some_and(is_clean) {
            self.own.idle().push(self.connection);
        }
        answer
    }
}

/// Whether the connection can be used again: the server has answered, be it by an error.
fn is_clean(answer: &RedisResult<Value>) -> bool {
    answer.as_ref().err().is_none_or(|error| matches!(error.kind(), redis::ErrorKind::Server(_)))
}

async fn unblock(elsewhere: &mut ConnectionManager, id: i64) {
    let mut command = redis::cmd("CLIENT");
    command.arg("UNBLOCK").arg(id);
    let unblocked: RedisResult<()> = command.query_async(elsewhere).await;
    if let Err(error) = unblocked {
        tracing::debug!(%error, "a command in redis could not be unblocked");
    }
}

impl Blocked {
    /// The answer, when there is one; `None` if there will be none.
    pub(super) async fn answer(&mut self) -> Option<RedisResult<Value>> {
        (&mut self.answer).await.ok().flatten()
    }

    /// Ends the command, and waits until its connection is clean or closed.
    pub(super) async fn end(mut self) -> Option<RedisResult<Value>> {
        self.stop.cancel();
        self.answer().await
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        // An answer may have come that was not read; one that comes later is reported by its task.
        self.answer.close();
        if let Ok(Some(Ok(value))) = self.answer.try_recv() {
            lost(&self.name, &value);
        }
    }
}

/// Reports that a command has taken a value that no caller receives.
fn lost(command: &str, value: &Value) {
    if !matches!(value, Value::Nil | Value::Int(_) | Value::ServerError(_)) {
        tracing::warn!(command, "redis answered a command that nobody waits for any more");
    }
}
