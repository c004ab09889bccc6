//! Messages on their way to the server. While there is no stream nothing is kept: whoever
//! asks is asked again when a stream is there.
//!
//! Bounded by what is in it: one keepalive, and at most three messages a request.

use std::collections::VecDeque;

use lockd_proto::{
    RequestId,
    v1::{self, attach_request::Message},
};

#[derive(Debug, Default)]
pub(super) struct Outbox {
    open: bool,
    queue: VecDeque<Message>,
}

impl Outbox {
    pub(super) fn open(&mut self) {
        self.open = true;
        self.queue.clear();
    }

    pub(super) fn close(&mut self) {
        self.open = false;
        self.queue.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn pop(&mut self) -> Option<Message> {
        self.queue.pop_front()
    }

    pub(super) fn put_back(&mut self, message: Message) {
        self.queue.push_front(message);
    }

    /// A keepalive goes before everything else.
    pub(super) fn keep_alive(&mut self, sequence: u64) {
        if self.open {
            self.queue.push_front(Message::KeepAlive(v1::KeepAlive { sequence }));
        }
    }

    /// Says whether the message is on its way.
    pub(super) fn push(&mut self, message: Message) -> bool {
        if self.open {
            self.queue.push_back(message);
        }
        self.open
    }

    pub(super) fn cancel(&mut self, id: RequestId) -> bool {
        self.push(Message::Cancel(v1::Cancel { request_id: id.as_bytes().to_vec() }))
    }

    pub(super) fn update(&mut self, id: RequestId, change: v1::change::Change) -> bool {
        let change = Some(v1::Change { change: Some(change) });
        self.push(Message::Update(v1::Update { request_id: id.as_bytes().to_vec(), change }))
    }

    pub(super) fn release(&mut self, id: RequestId) -> bool {
        self.push(Message::Release(v1::Release { request_id: id.as_bytes().to_vec() }))
    }
}
