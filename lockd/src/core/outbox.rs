//! The answers of a stream on their way to its connection.
//!
//! The core puts them in, the connection takes all that are there as one frame: nothing waits for a
//! slow client, and what is ready leaves together. A client that does not read is cut off: by the
//! number of its unread answers, or after it has left them unread for too long.

use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
};

use lockd_proto::clock::Instant;
use parking_lot::Mutex;

use super::{answer::Answer, error::Error};
use crate::record::Position;

/// The most answers that may lie unread: each open request has a few at most.
const MAX_UNREAD: usize = 32 * 1024;

/// The answers of one stream.
#[derive(Debug, Default)]
pub(crate) struct Outbox(Mutex<OutboxState>);

#[derive(Debug, Default)]
struct OutboxState {
    /// Answers that wait until what they rest on is durable.
    staged: Vec<Answer>,
    /// Answers that can leave.
    answers: Vec<Answer>,
    durable: Position,
    closed: bool,
    /// Since when answers lie unread.
    unread_since: Option<Instant>,
    reader: Option<Waker>,
}

/// A frame of answers.
#[derive(Debug)]
pub struct AnswerFrame {
    /// The answers, in order.
    pub answers: Vec<Answer>,
    /// Everything up to here is durable.
    pub durable: Position,
}

impl Outbox {
    /// An outbox without answers.
    #[must_use]
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Adds an answer that rests on nothing but what is durable, or may be undone.
    pub(super) fn push(&self, answer: Answer) {
        self.add(answer, |inner| &mut inner.answers);
    }

    /// Adds an answer that leaves once the outbox is flushed.
    pub(super) fn stage(&self, answer: Answer) {
        self.add(answer, |inner| &mut inner.staged);
    }

    fn add(&self, answer: Answer, to: fn(&mut OutboxState) -> &mut Vec<Answer>) {
        let mut inner = self.0.lock();
        if inner.closed {
            return;
        }
        if inner.answers.len() + inner.staged.len() >= MAX_UNREAD {
            inner.staged.clear();
            inner.answers = vec![Answer::GoAway(Box::new(Error::SlowConsumer))];
            inner.closed = true;
            return;
        }
        to(&mut inner).push(answer);
    }

    /// Lets out what was staged, and has the connection take what is there.
    pub(super) fn flush(&self, durable: Position, now: Instant) {
        let mut inner = self.0.lock();
        let OutboxState { staged, answers, .. } = &mut *inner;
        if answers.is_empty() {
            std::mem::swap(staged, answers);
        } else {
            answers.append(staged);
        }
        inner.durable = durable;
        let reader = inner.wake(now);
        drop(inner);
        reader.into_iter().for_each(Waker::wake);
    }

    /// No answer follows those that are in.
    pub(super) fn close(&self) {
        self.0.lock().closed = true;
    }

    /// Since when its answers lie unread.
    pub(super) fn unread_since(&self) -> Option<Instant> {
        self.0.lock().unread_since
    }

    /// Takes all answers that are there; `None` once the last one has been taken.
    ///
    /// # Cancel safety
    /// Nothing is taken before it is returned.
    pub(crate) fn poll_frame(&self, cx: &mut Context<'_>) -> Poll<Option<AnswerFrame>> {
        let mut inner = self.0.lock();
        if !inner.answers.is_empty() {
            inner.unread_since = None;
            let answers = std::mem::take(&mut inner.answers);
            return Poll::Ready(Some(AnswerFrame { answers, durable: inner.durable }));
        }
        if inner.closed && inner.staged.is_empty() {
            return Poll::Ready(None);
        }
        inner.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl OutboxState {
    fn wake(&mut self, now: Instant) -> Option<Waker> {
        if self.answers.is_empty() {
            return None;
        }
        self.unread_since.get_or_insert(now);
        self.reader.take()
    }
}
