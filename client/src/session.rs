//! A session: one task that owns the stream to the server, and the handle that guards and
//! acquires use to talk to it.
//!
//! ```text
//! acquire, guard ── Command ──► actor ── requests (state) ── link (stream) ──► server
//!        ▲                        │
//!        └─ oneshot, Arc<Held> ◄──┘
//! ```

mod actor;
mod identity;
mod keepalive;
mod link;
mod outbox;
mod requests;

pub(crate) use self::identity::Identity;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use lockd_proto::{
    FencingToken, Namespace, RequestId, SessionId,
    clock::{Clock, Instant},
    v1,
};
use tokio::sync::{
    mpsc::{self, error::TrySendError},
    oneshot,
};
use tokio_util::sync::CancellationToken;

use crate::{
    endpoints::Endpoints,
    error::Fault,
    held::{Held, LossReason, Released},
    place::Place,
    tasks::Tasks,
};

/// Commands that wait for the session's task.
const COMMANDS: usize = 1024;

/// What all parts of a client share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) endpoints: Endpoints,
    pub(crate) clock: Clock,
    pub(crate) tasks: Tasks,
    pub(crate) namespace: Namespace,
    pub(crate) info: v1::ClientInfo,
    pub(crate) ttl: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) request_timeout: Duration,
}

/// What the session's task is asked to do.
#[derive(Debug)]
pub(crate) enum Command {
    /// Acquire a lock.
    Acquire(Box<Acquire>),
    /// The acquire is not wanted any more, whatever has become of it.
    Abandon(RequestId),
    /// Give up what is held without having done with it: others may have to know.
    Desert(RequestId),
    /// Change what is held.
    Update(RequestId, v1::change::Change, oneshot::Sender<UpdateReply>),
    /// Release a lock.
    Release(RequestId, Option<oneshot::Sender<ReleaseReply>>),
    /// Say what is open.
    Count(oneshot::Sender<Census>),
    /// End the session.
    Close,
}

/// What a session has open.
#[derive(Debug)]
pub(crate) struct Census {
    /// Of the session, if the server knows of it.
    pub(crate) credential: Option<v1::SessionCredential>,
    pub(crate) open: Vec<Phase>,
}

/// How far something has come that a session was asked for.
#[derive(Debug)]
pub(crate) enum Phase {
    /// It waits for this lock.
    Waiting(String),
    /// It is held, under this token.
    Held(FencingToken),
    /// The server has not yet said that it is gone.
    Leaving,
}

/// What a release found.
pub(crate) type ReleaseReply = Result<Released, Fault>;

/// What became of a change.
pub(crate) type UpdateReply = Result<(), Fault>;

/// How an acquire ended.
pub(crate) type AcquireReply = Result<Granted, Denied>;

/// An acquire on its way.
#[derive(Debug)]
pub(crate) struct Acquire {
    pub(crate) id: RequestId,
    /// As it goes over the wire, but for the time to wait.
    pub(crate) message: v1::Acquire,
    pub(crate) wait: Wait,
    pub(crate) on_loss: OnLoss,
    /// The token of the guard's context.
    pub(crate) cancel: CancellationToken,
    pub(crate) progress: SharedProgress,
    pub(crate) reply: oneshot::Sender<AcquireReply>,
}

/// What becomes of a wait when its session dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnLoss {
    /// It joins the queue again in the next session, at its end.
    Requeue,
    /// It fails: others may rely on its uninterrupted wait.
    Fail,
}

/// An acquire that was not granted, though nothing failed.
#[derive(Debug, Clone)]
pub(crate) struct Refused {
    pub(crate) reason: v1::RefusalReason,
    pub(crate) place: Option<Place>,
    pub(crate) detail: String,
    pub(crate) result: Vec<u8>,
}

/// How long an acquire waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    Not,
    Until(Instant),
    Forever,
}

/// How far an acquire has come, for the text of its error.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress {
    pub(crate) place: Option<Place>,
    pub(crate) trouble: Option<String>,
}

/// Progress as the session's task reports it, read when an acquire fails.
#[derive(Debug, Clone, Default)]
pub(crate) struct SharedProgress(Arc<Mutex<Progress>>);

impl SharedProgress {
    /// The progress so far.
    pub(crate) fn get(&self) -> Progress {
        self.lock().clone()
    }

    fn queued(&self, place: Option<Place>) {
        *self.lock() = Progress { place, trouble: None };
    }

    fn trouble(&self, trouble: Option<String>) {
        self.lock().trouble = trouble;
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A lock that is held.
#[derive(Debug)]
pub(crate) struct Granted {
    pub(crate) token: FencingToken,
    pub(crate) session: SessionId,
    pub(crate) held: Arc<Held>,
}

/// Why an acquire ended without a grant.
#[derive(Debug)]
pub(crate) enum Denied {
    Refused(Refused),
    Failed(Fault),
    /// It was granted, but too late to count.
    Lost(LossReason),
    /// The client is shutting down.
    Closed,
}

/// Talks to a session's task. The task lives as long as there is a handle.
#[derive(Debug, Clone)]
pub(crate) struct SessionHandle(Arc<Post>);

#[derive(Debug)]
struct Post {
    commands: mpsc::Sender<Command>,
    tasks: Tasks,
}

impl SessionHandle {
    /// Starts the task of a session. The session itself is opened when it is needed.
    pub(crate) fn start(shared: Arc<Shared>, ttl: Duration) -> Self {
        let (commands, receiver) = mpsc::channel(COMMANDS);
        let tasks = shared.tasks.clone();
        tasks.spawn("session", actor::Actor::new(shared, ttl, receiver).run());
        Self(Arc::new(Post { commands, tasks }))
    }

    /// Hands over a command without waiting: from `Drop`, and where the caller may go away.
    pub(crate) fn post(&self, command: Command) {
        if let Err(TrySendError::Full(command)) = self.0.commands.try_send(command) {
            let commands = self.0.commands.clone();
            // A session that has ended needs no more commands.
            let hand_over = async move { drop(commands.send(command).await) };
            self.0.tasks.spawn("hand over a command", hand_over);
        }
    }

    /// What the session has open; `None` if its task has ended.
    pub(crate) async fn census(&self) -> Option<Census> {
        let (reply, census) = oneshot::channel();
        self.send(Command::Count(reply)).await;
        census.await.ok()
    }

    /// Hands over a command when there is room for it. Says whether the task is there.
    pub(crate) async fn send(&self, command: Command) -> bool {
        self.0.commands.send(command).await.is_ok()
    }
}
