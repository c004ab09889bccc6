//! Fencing in Redis: a Lua script runs the commands, after it has compared the tokens.
//!
//! Redis runs a script as one step, so nothing comes between the comparison and the commands.

use std::sync::LazyLock;

use lockd_proto::FencingToken;
use redis::{
    Arg, Cmd, ErrorKind, Pipeline, RedisFuture, RedisResult, Script, Value,
    aio::{ConnectionLike, ConnectionManager},
};

static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("fence.lua")));

/// A connection on which every command is fenced.
pub(super) struct Fenced<'a> {
    pub(super) connection: ConnectionManager,
    pub(super) keys: &'a [String],
    pub(super) token: FencingToken,
    /// The later token, once one was met.
    pub(super) stored: Option<FencingToken>,
}

impl Fenced<'_> {
    async fn run(
        &mut self,
        commands: impl Iterator<Item = &Cmd> + Send,
    ) -> RedisResult<Vec<Value>> {
        let mut script = SCRIPT.prepare_invoke();
        script.key(self.keys).arg(self.token);
        commands.for_each(|command| write(command, &mut script));
        let replies: Vec<Value> = script.invoke_async(&mut self.connection).await?;
        let mut replies = replies.into_iter();
        match replies.next() {
            Some(Value::Nil) => Ok(replies.collect()),
            Some(stored) => {
                self.stored = Some(redis::from_redis_value(stored)?);
                Err((ErrorKind::Client, "a later token has been seen").into())
            }
            None => Err((ErrorKind::Parse, "the script has not answered").into()),
        }
    }
}

fn write(command: &Cmd, script: &mut redis::ScriptInvocation<'_>) {
    let arguments = command.args_iter();
    script.arg(arguments.len());
    for argument in arguments {
        match argument {
            Arg::Simple(bytes) => script.arg(bytes),
            // A cursor, of which the first is zero.
            _ => script.arg(0),
        };
    }
}

impl ConnectionLike for Fenced<'_> {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            let mut replies = self.run(std::iter::once(command)).await?;
            replies.pop().ok_or_else(|| (ErrorKind::Parse, "the command has no answer").into())
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        _offset: usize,
        _count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            let replies = self.run(pipeline.cmd_iter()).await?;
            // A transaction is answered by its EXEC alone.
            Ok(if pipeline.is_transaction() { vec![Value::Array(replies)] } else { replies })
        })
    }

    fn get_db(&self) -> i64 {
        self.connection.get_db()
    }
}
