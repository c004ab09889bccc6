//! Commands in Redis that end with their context, and that only the holder of a lock can run.
//!
//! ```no_run
//! # async fn example(
//! #     client: lockd_client::Client, ctx: lockd_client::Context,
//! # ) -> Result<(), Box<dyn std::error::Error>> {
//! use lockd_client::redis::Redis;
//!
//! let redis = Redis::new(redis::Client::open("redis://127.0.0.1/")?)?;
//! // Ends with the context, also while it blocks.
//! let job: Option<(String, String)> =
//!     ctx.redis(&redis).query(redis::cmd("BLPOP").arg("jobs").arg(0)).await?;
//!
//! // Rejected by Redis if another session was granted the lock in the meantime.
//! let guard = client.lock("stock/7").acquire(&ctx).await?;
//! let left: i64 = guard.redis(&redis).query(redis::cmd("DECR").arg("stock:7")).await?;
//! # Ok(()) }
//! ```
//!
//! - **A command** is waited for as long as its context lasts. Redis can't abandon one that has
//!   begun, so it may take effect all the same.
//! - **A command that blocks** (`BLPOP`, `XREAD … BLOCK` and their like) is sent with a timeout no
//!   longer than its context lasts, and has a connection of its own. When the context ends, or its
//!   future is dropped, it is ended by `CLIENT UNBLOCK`, and the connection is used again once that
//!   is done.
//! - **Fencing** wraps commands into a script that first compares tokens. The tokens are keys in
//!   Redis, and as durable as it is configured to be: with `appendonly yes` and `appendfsync always` a
//!   token that was stored is never forgotten; with less, a crash of Redis can let a late writer in.
//!   In a Redis Cluster a script reaches one slot only: choose a [`fence_key`](Commands::fence_key)
//!   that shares its hash tag with the keys of the commands.

mod blocking;
mod fence;
mod own;

use std::{fmt, sync::Arc, time::Duration};

use redis::{
    Client, Cmd, FromRedisValue, Pipeline, RedisError, RedisResult, Value,
    aio::{ConnectionManager, ConnectionManagerConfig},
};

use self::{blocking::Blocking, fence::Fenced as FencedConnection, own::Own};
use crate::{
    context::{Cause, Context},
    error::{Error, ErrorKind, Fault, Fenced, Timed},
    fencing::Fencing,
    guard::Guard,
};

/// Who asks, to the propagation.
const LAYER: &str = "redis";

/// How many commands block at once, if nothing else is chosen.
const BLOCKING: usize = 16;

/// How long a command without a deadline is waited for, if nothing else is chosen.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The connections to a Redis. Cheap to clone: clones share everything. Opened when they are
/// needed, and again when they break.
///
/// A command that blocks for ever, in a context without an end, does not see that a server vanishes
/// without a word, unless the client's [settings](redis::ConnectionInfo::set_tcp_settings) have TCP
/// look for it.
#[derive(Clone)]
pub struct Redis {
    client: Client,
    shared: ConnectionManager,
    own: Arc<Own>,
    timeout: Duration,
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").field("own", &self.own).finish_non_exhaustive()
    }
}

impl Redis {
    /// Connections to the Redis that this client names. Must be called in a runtime.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`] if the client's configuration can't be used.
    pub fn new(client: Client) -> Result<Self, Error> {
        // How long a command may take is the context's to say.
        let config = ConnectionManagerConfig::new().set_response_timeout(None);
        let shared = ConnectionManager::new_lazy_with_config(client.clone(), config);
        let shared = shared.map_err(|error| {
            let fault = Fault { kind: ErrorKind::Configuration, ..Fault::failed(error) };
            Timed::begin(&Context::background(), "redis", None).failed(fault)
        })?;
        Ok(Self { client, shared, own: Own::new(BLOCKING), timeout: TIMEOUT })
    }

    /// Lets at most so many commands block at once, each on a connection; the next ones wait.
    /// Default: 16. Zero is as good as one.
    #[must_use]
    pub fn blocking(mut self, connections: usize) -> Self {
        self.own = Own::new(connections.max(1));
        self
    }

    /// How long a command that does not block is waited for in a context without a deadline.
    /// Default: 5 s.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

/// A Redis, used in a context. Made by [`Context::redis`] and [`Guard::redis`].
#[derive(Clone)]
#[must_use = "nothing happens until a command is run"]
pub struct Commands {
    ctx: Context,
    redis: Redis,
    /// Or why it can't be fenced, which the first use reports.
    fencing: Option<Result<Fencing, Fault>>,
}

impl fmt::Debug for Commands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Commands").field("fencing", &self.fencing).finish_non_exhaustive()
    }
}

impl Context {
    /// A Redis, used in this context.
    pub fn redis(&self, redis: &Redis) -> Commands {
        Commands { ctx: self.clone(), redis: redis.clone(), fencing: None }
    }
}

impl Guard {
    /// A Redis, used in the guard's [context](Self::context), by commands that take effect only
    /// while no later holder has been there.
    pub fn redis(&self, redis: &Redis) -> Commands {
        self.context().redis(redis).fenced(self)
    }
}

impl Commands {
    /// Fences the commands by this guard's token, in a context that was not made by it. Redis takes
    /// some 7,900 words a command at most in a script.
    pub fn fenced(mut self, guard: &Guard) -> Self {
        let keyed = |fencing: Fencing| {
            let keys = fencing.resources.iter().map(|name| format!("lockd:fence:{name}"));
            Fencing { resources: keys.collect(), ..fencing }
        };
        self.fencing = Some(guard.fencing().map(keyed));
        self
    }

    /// Keeps the token under this key, instead of `lockd:fence:<namespace>/<name>`. Only what is
    /// [fenced](Self::fenced) already has one.
    pub fn fence_key(mut self, key: impl Into<String>) -> Self {
        if let Some(Ok(fencing)) = &mut self.fencing {
            fencing.resources = vec![key.into()];
        }
        self
    }

    /// Runs a command, and reads its answer.
    ///
    /// # Errors
    /// [`ErrorKind::Failed`] with the [`RedisError`] as the source; [`ErrorKind::Fenced`] if a later
    /// holder of the lock has been there; [`ErrorKind::DeadlineExceeded`] and
    /// [`ErrorKind::Cancelled`] when the context ends; [`ErrorKind::Unavailable`] if it has no
    /// deadline and Redis does not answer; [`ErrorKind::InvalidArgument`] for a command that would
    /// block under a fence. The text names the command and none of its arguments.
    ///
    /// # Cancel safety
    /// A command that blocks is ended, in the background. Another one may take effect all the same.
    /// What a command has taken at the moment at which its future was dropped is lost, which the log
    /// says: `BLMOVE` into a list of one's own is safe.
    pub async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Error> {
        let name = blocking::name(command);
        let timed = Timed::begin(&self.ctx, "redis command", Some(&name));
        let value = match blocking::clamp(command, self.ctx.budget()) {
            Some(blocking) => self.block(blocking).await,
            None => self.run(async |connection| connection.query(command).await).await,
        };
        let read = value.and_then(|value| read(value).map_err(failed));
        read.map_err(|fault| timed.failed(fault))
    }

    /// Runs several commands in one round trip, and reads their answers. Under a fence they are one
    /// step, and the first that fails ends it: what came before has taken effect.
    ///
    /// # Errors
    /// As [`query`](Self::query); [`ErrorKind::InvalidArgument`] for a command that would block.
    ///
    /// # Cancel safety
    /// The commands may take effect all the same.
    pub async fn pipeline<T: FromRedisValue>(&self, pipeline: &Pipeline) -> Result<T, Error> {
        let timed = Timed::begin(&self.ctx, "redis pipeline", None);
        let blocks = pipeline.cmd_iter().find(|command| blocking::clamp(command, None).is_some());
        if let Some(command) = blocks {
            let name = blocking::name(command);
            let message = format!("{name} would hold up the pipeline: send it by itself");
            return Err(timed.failed(Fault::new(ErrorKind::InvalidArgument, message)));
        }
        let value = self.run(async |connection| connection.pipeline(pipeline).await).await;
        // The first commands may have taken effect where a later one failed.
        let begun = |fault: Fault| Fault {
            may_have_applied: fault.may_have_applied || fault.kind == ErrorKind::Failed,
            ..fault
        };
        value.map_err(|fault| timed.failed(begun(fault)))
    }

    /// Runs what does not block, on the connection that all share.
    async fn run<T>(
        &self,
        work: impl AsyncFnOnce(&mut Shared<'_>) -> RedisResult<T>,
    ) -> Result<T, Fault> {
        let fencing = self.fencing.as_ref().map(|fencing| fencing.as_ref().map_err(Clone::clone));
        let fencing = fencing.transpose()?;
        let mut connection = Shared::new(self.redis.shared.clone(), fencing);
        // With a deadline, the context limits the wait.
        let limit = if self.ctx.budget().is_some() { Duration::MAX } else { self.redis.timeout };
        let answer = tokio::time::timeout(limit, work(&mut connection));
        let answer = self.ctx.bound(LAYER, answer).await;
        // A command that was sent may take effect.
        let sent = |fault| Fault { may_have_applied: true, ..fault };
        let answer = answer.map_err(|cause| sent(Fault::ended(&cause)))?;
        let answer = answer.map_err(|_| {
            sent(Fault::unavailable(format!("redis has not answered within {limit:?}")))
        })?;
        answer.map_err(|error| connection.refused().unwrap_or_else(|| failed(error)))
    }

    /// Runs what blocks, on a connection of its own.
    async fn block(&self, blocking: Blocking) -> Result<Value, Fault> {
        let Blocking { command, shortened, waits } = blocking;
        if self.fencing.is_some() {
            let message = "a command that blocks can't be fenced: it would hold up all of redis";
            return Err(Fault::new(ErrorKind::InvalidArgument, message));
        }
        let lent =
            self.ctx.bound(LAYER, Arc::clone(&self.redis.own).lend(&self.redis.client)).await;
        let lent = lent.map_err(|cause| Fault::ended(&cause))?.map_err(failed)?;
        let mut blocked = lent.send(command, self.redis.shared.clone());
        // It ends by itself, if the server is there.
        let limit = waits.map_or(Duration::MAX, |waits| waits + self.redis.timeout);
        let answer = tokio::time::timeout(limit, blocked.answer());
        let (answer, ended) = match self.ctx.bound(LAYER, answer).await {
            Ok(Ok(answer)) => (answer, shortened.then_some(Cause::DeadlineExceeded)),
            Ok(Err(_)) => (blocked.end().await, None),
            // What it was given at this very moment is not to be lost.
            Err(cause) => (blocked.end().await, Some(cause)),
        };
        match (answer, ended) {
            (Some(Ok(Value::Nil)), Some(cause)) => Err(Fault::ended(&cause)),
            (Some(answer), _) => answer.map_err(failed),
            (None, Some(cause)) => Err(Fault { may_have_applied: true, ..Fault::ended(&cause) }),
            (None, None) => {
                let fault = Fault::unavailable("redis has not answered in time");
                Err(Fault { may_have_applied: true, ..fault })
            }
        }
    }
}

/// The connection that all share, fenced or not.
enum Shared<'a> {
    Plain(ConnectionManager),
    Fenced(FencedConnection<'a>),
}

impl<'a> Shared<'a> {
    fn new(connection: ConnectionManager, fencing: Option<&'a Fencing>) -> Self {
        match fencing {
            None => Self::Plain(connection),
            Some(Fencing { resources, token }) => {
                let (keys, token) = (resources, *token);
                Self::Fenced(FencedConnection { connection, keys, token, stored: None })
            }
        }
    }

    async fn query(&mut self, command: &Cmd) -> RedisResult<Value> {
        match self {
            Self::Plain(connection) => command.query_async(connection).await,
            Self::Fenced(connection) => command.query_async(connection).await,
        }
    }

    async fn pipeline<T: FromRedisValue>(&mut self, pipeline: &Pipeline) -> RedisResult<T> {
        match self {
            Self::Plain(connection) => pipeline.query_async(connection).await,
            Self::Fenced(connection) => pipeline.query_async(connection).await,
        }
    }

    /// Whether it was the fence that failed the command.
    fn refused(&self) -> Option<Fault> {
        let Self::Fenced(FencedConnection { token, stored, .. }) = self else { return None };
        stored.map(|stored| Fault::fenced(Fenced { ours: *token, stored }))
    }
}

fn read<T: FromRedisValue>(value: Value) -> RedisResult<T> {
    Ok(redis::from_redis_value(value.extract_error()?)?)
}

fn failed(error: RedisError) -> Fault {
    // Only what the server itself refuses has not been done: a connection that broke had been
    // written to, and an answer that can't be read is one.
    let refused = matches!(error.kind(), redis::ErrorKind::Server(_) | redis::ErrorKind::Extension);
    let may_have_applied = !refused && !error.is_connection_refusal();
    Fault { may_have_applied, ..Fault::failed(error) }
}
