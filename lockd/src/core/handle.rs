//! The way to the core, for connections. Cheap to clone.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use lockd_proto::{RequestId, SessionId};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::{
    answer::AcquireReply,
    ask::{Acquire, Ask, Begin, Call, Credential, Hello, Input, Look, Nudge, Reply, StreamKey},
    error::Error,
    nudges::Nudges,
    observe::{ObserverKey, Scope, Watched},
    outbox::{AnswerFrame, Outbox},
    status::Status,
};
use crate::record::LockId;

/// The asks of one stream that may wait for the core at a time: its share of a turn.
const SHARE: usize = 1024;

/// The way to the core.
#[derive(Debug, Clone)]
pub struct Handle {
    inputs: mpsc::Sender<Input>,
    nudges: Nudges,
    status: Status,
    name: Arc<str>,
    /// Names streams and observers.
    keys: Arc<AtomicU64>,
}

/// A stream's way to the core. Dropped when its connection is gone.
#[derive(Debug)]
pub struct StreamHandle {
    key: StreamKey,
    inputs: mpsc::Sender<Input>,
    nudges: Nudges,
    share: Arc<Semaphore>,
    outbox: Arc<Outbox>,
}

/// The caller of an acquire, who says when it goes away before it has its answer.
#[derive(Debug)]
struct Departure {
    nudges: Nudges,
    by: (SessionId, RequestId),
    lock: Option<LockId>,
    /// `None` once it was answered.
    answer: Option<oneshot::Receiver<Result<AcquireReply, Error>>>,
}

impl Departure {
    async fn answered(mut self) -> Result<AcquireReply, Error> {
        let Some(answer) = &mut self.answer else { return Err(Error::Draining) };
        let answered = answer.await.unwrap_or(Err(Error::Draining));
        self.answer = None;
        answered
    }
}

impl Drop for Departure {
    fn drop(&mut self) {
        let Some(mut answer) = self.answer.take() else { return };
        answer.close();
        let nudge = match (answer.try_recv(), self.lock.take()) {
            // The answer was on its way.
            (Ok(Ok(AcquireReply::Granted { token, claim })), Some(lock)) => {
                Nudge::GrantLost { lock, token, claim }
            }
            (Ok(_), _) => return,
            (Err(_), _) => Nudge::CallGone(self.by.0, self.by.1),
        };
        self.nudges.send(nudge);
    }
}

impl Handle {
    pub(super) fn new(
        inputs: mpsc::Sender<Input>,
        nudges: Nudges,
        status: Status,
        name: Arc<str>,
    ) -> Self {
        Self { inputs, nudges, status, name, keys: Arc::default() }
    }

    /// How the replica is doing.
    #[must_use]
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// The replica's name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn key(&self) -> u64 {
        self.keys.fetch_add(1, Ordering::Relaxed)
    }

    /// Begins a stream with its first frame.
    ///
    /// # Errors
    /// The session is gone, its secret is another one, or the replica can't serve it.
    ///
    /// # Cancel safety
    /// What was begun ends as if the connection had broken.
    pub async fn attach(&self, hello: Hello, asks: Vec<Ask>) -> Result<StreamHandle, Error> {
        let stream = StreamHandle {
            key: StreamKey(self.key()),
            inputs: self.inputs.clone(),
            nudges: self.nudges.clone(),
            share: Arc::new(Semaphore::new(SHARE)),
            outbox: Outbox::new(),
        };
        let (reply, attached) = oneshot::channel();
        let outbox = stream.outbox.clone();
        let begin = Begin { stream: stream.key, hello, asks, outbox, reply };
        self.send(Input::Begin(Box::new(begin))).await?;
        attached.await.unwrap_or(Err(Error::Draining))?;
        Ok(stream)
    }

    /// Makes a call.
    ///
    /// # Errors
    /// As the call.
    pub async fn call<T>(&self, make: impl FnOnce(Reply<T>) -> Call) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.send(Input::Call(Box::new(make(reply)))).await?;
        answer.await.unwrap_or(Err(Error::Draining))
    }

    /// Acquires locks: the first of them is named beside the credential.
    ///
    /// # Errors
    /// The session is not the caller's, or the acquire failed.
    ///
    /// # Cancel safety
    /// A caller that goes away leaves the queue, and a grant that it was not given is given back.
    pub async fn acquire(
        &self,
        (by, lock): (Credential, Option<LockId>),
        acquire: Box<Acquire>,
    ) -> Result<AcquireReply, Error> {
        let (reply, answer) = oneshot::channel();
        let by_request = (by.session, acquire.request);
        self.send(Input::Call(Box::new(Call::Acquire(by, acquire, reply)))).await?;
        let nudges = self.nudges.clone();
        Departure { nudges, by: by_request, lock, answer: Some(answer) }.answered().await
    }

    /// Asks a question.
    ///
    /// # Errors
    /// As the question.
    pub async fn ask<T>(&self, make: impl FnOnce(Reply<T>) -> Look) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.send(Input::Look(Box::new(make(reply)))).await?;
        answer.await.unwrap_or(Err(Error::Draining))
    }

    /// Asks a question that has no error.
    ///
    /// # Errors
    /// The replica is ending.
    pub async fn look(&self, look: Look) -> Result<(), Error> {
        self.send(Input::Look(Box::new(look))).await
    }

    /// Observes locks from now on.
    ///
    /// # Errors
    /// The replica is ending.
    pub async fn watch(&self, scope: Scope) -> Result<Arc<Watched>, Error> {
        let key = ObserverKey(self.key());
        let watched = Watched::new(key, self.nudges.clone());
        self.look(Look::Watch(key, scope, watched.clone())).await?;
        Ok(watched)
    }

    async fn send(&self, input: Input) -> Result<(), Error> {
        self.inputs.send(input).await.map_err(|_| Error::Draining)
    }
}

impl StreamHandle {
    /// Hands over a frame, once the stream has room for it in its share.
    ///
    /// # Errors
    /// The replica is ending.
    ///
    /// # Cancel safety
    /// A frame that was not handed over is dropped whole.
    pub async fn frame(&self, asks: Vec<Ask>) -> Result<(), Error> {
        let size = u32::try_from(asks.len().clamp(1, SHARE)).unwrap_or(1);
        let share = self.share.clone().acquire_many_owned(size).await;
        let share = share.map_err(|_| Error::Draining)?;
        let frame = Input::Frame { stream: self.key, asks, share };
        self.inputs.send(frame).await.map_err(|_| Error::Draining)
    }

    /// The answers of the stream.
    #[must_use]
    pub fn answers(&self) -> Answers {
        Answers { outbox: self.outbox.clone() }
    }
}

impl Drop for StreamHandle {
    fn drop(&mut self) {
        self.nudges.send(Nudge::StreamGone(self.key));
    }
}

/// The answers of a stream.
#[derive(Debug)]
pub struct Answers {
    outbox: Arc<Outbox>,
}

impl Answers {
    /// The next frame; `None` after the last one. Cancel safe.
    pub fn poll_frame(&self, cx: &mut Context<'_>) -> Poll<Option<AnswerFrame>> {
        self.outbox.poll_frame(cx)
    }
}
