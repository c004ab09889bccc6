//! Messages on their way to the server. While there is no stream nothing is kept: what is open is
//! asked for again when a stream is there.
//!
//! Bounded by what is in it: one keepalive, and at most three messages a request.

use std::collections::{HashSet, VecDeque};

use lockd_proto::{
    RequestId,
    v1::{self, AttachRequest, ClientMessage, client_message::Message},
};
use prost::Message as _;

/// The most messages of a frame, as the protocol has it.
const MAX_FRAME_MESSAGES: usize = 1024;

/// The most bytes of a frame, unless its first message alone is longer.
const MAX_FRAME_BYTES: usize = 64 * 1024;

/// What a message takes in a frame beside its own bytes, at most: its tag and its length.
const FRAMING_BYTES: usize = 5;

#[derive(Debug, Default)]
pub(super) struct Outbox {
    open: bool,
    queue: VecDeque<ClientMessage>,
}

impl Outbox {
    /// A stream is about to be opened: this is its first message.
    pub(super) fn open(&mut self, hello: Message) {
        self.open = true;
        self.queue.clear();
        self.push(hello);
    }

    /// The stream is down. Gives the acquires that have not left.
    pub(super) fn close(&mut self) -> HashSet<RequestId> {
        self.open = false;
        let acquire = |message: ClientMessage| match message.message? {
            Message::Acquire(acquire) => RequestId::try_from(acquire.request_id.as_slice()).ok(),
            _ => None,
        };
        self.queue.drain(..).filter_map(acquire).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Takes as many messages as one frame may have.
    pub(super) fn frame(&mut self) -> AttachRequest {
        let mut bytes = 0;
        let mut fits = |message: &ClientMessage| {
            bytes += message.encoded_len() + FRAMING_BYTES;
            bytes <= MAX_FRAME_BYTES
        };
        let first = self.queue.iter().take(MAX_FRAME_MESSAGES);
        let count = first.take_while(|message| fits(message)).count();
        // A message that is too long for any frame leaves alone.
        let count = count.max(1).min(self.queue.len());
        AttachRequest { messages: self.queue.drain(..count).collect() }
    }

    /// A keepalive goes before everything else.
    pub(super) fn keep_alive(&mut self, sequence: u64) {
        if self.open {
            let message = Some(Message::KeepAlive(v1::KeepAlive { sequence }));
            self.queue.push_front(ClientMessage { message });
        }
    }

    /// Says whether the message is on its way.
    pub(super) fn push(&mut self, message: Message) -> bool {
        if self.open {
            self.queue.push_back(ClientMessage { message: Some(message) });
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

#[cfg(test)]
mod tests {
    use super::*;

    fn outbox_with(messages: usize, name_bytes: usize) -> Outbox {
        let mut outbox = Outbox { open: true, ..Outbox::default() };
        for _ in 0..messages {
            let name = "n".repeat(name_bytes);
            outbox.push(Message::Acquire(v1::Acquire { name, ..v1::Acquire::default() }));
        }
        outbox
    }

    fn frames(mut outbox: Outbox) -> Vec<AttachRequest> {
        let mut frames = vec![];
        while !outbox.is_empty() {
            frames.push(outbox.frame());
        }
        frames
    }

    #[test]
    fn what_is_ready_leaves_in_one_frame() {
        let counts: Vec<_> = frames(outbox_with(64, 20)).iter().map(|f| f.messages.len()).collect();
        assert_eq!(counts, [64]);
    }

    #[test]
    fn a_frame_has_a_limit_on_messages_and_on_bytes() {
        let counts: Vec<_> =
            frames(outbox_with(2500, 1)).iter().map(|f| f.messages.len()).collect();
        assert_eq!(counts, [1024, 1024, 452]);
        let long = frames(outbox_with(100, 4096));
        assert!(long.len() > 1 && long.iter().all(|frame| frame.encoded_len() <= MAX_FRAME_BYTES));
        assert_eq!(long.iter().map(|frame| frame.messages.len()).sum::<usize>(), 100);
    }

    #[test]
    fn a_message_that_is_longer_than_a_frame_leaves_alone() {
        let counts: Vec<_> =
            frames(outbox_with(2, 70_000)).iter().map(|f| f.messages.len()).collect();
        assert_eq!(counts, [1, 1]);
    }
}
