//! What is stored under a key, as protobuf: fields may be added, never renumbered.

use std::{borrow::Cow, collections::HashMap};

use bytes::Bytes;
use lockd_proto::{TraceParent, v1};
use prost::Message;

use crate::mode::{Mode, OnLoss};

/// A session, attached to its own lease.
#[derive(Clone, PartialEq, Message)]
pub struct SessionRecord {
    /// SHA-256 of the session's secret.
    #[prost(bytes = "bytes", tag = "1")]
    pub secret_hash: Bytes,
    /// The TTL that was granted, in milliseconds.
    #[prost(uint64, tag = "2")]
    pub ttl_ms: u64,
    /// Who opened it: a name such as "api-7".
    #[prost(string, tag = "3")]
    pub client_name: String,
    /// The host that it runs on.
    #[prost(string, tag = "4")]
    pub host: String,
    /// Its process id; zero where there is none.
    #[prost(uint32, tag = "5")]
    pub pid: u32,
    /// The replica where its stream ends; empty while it has none. Written at each attach, so
    /// the record's revision tells one attachment from the next.
    #[prost(string, tag = "6")]
    pub replica: String,
    /// Whether its client has asked to close it: its end is then no loss.
    #[prost(bool, tag = "7")]
    pub closing: bool,
}

/// An entry in a lock's queue, or the same in the queues of several locks.
#[derive(Clone, PartialEq, Message)]
pub struct EntryRecord {
    /// What the acquire said of itself.
    #[prost(map = "string, string", tag = "1")]
    pub metadata: HashMap<String, String>,
    /// The trace of the acquire: the span that it was asked for in, as in the header `traceparent`, or
    /// where that is not known the id alone. May be empty.
    #[prost(string, tag = "2")]
    pub trace: String,
    /// When it was made, in milliseconds of the Unix epoch: to show, never to decide.
    #[prost(uint64, tag = "3")]
    pub made_unix_ms: u64,
    /// How it shares its lock, as it was asked for.
    #[prost(message, optional, tag = "4")]
    pub mode: Option<v1::Mode>,
    /// The names of all locks that it asks for, where they are several.
    #[prost(string, repeated, tag = "5")]
    pub names: Vec<String>,
    /// Its value, which may change.
    #[prost(bytes = "bytes", tag = "6")]
    pub value: Bytes,
    /// The logical task that it belongs to; may be empty.
    #[prost(string, tag = "7")]
    pub owner: String,
    /// Until when it waits, in milliseconds of the Unix epoch: to show, never to decide. Zero
    /// where it waits for ever.
    #[prost(uint64, tag = "8")]
    pub wait_until_unix_ms: u64,
    /// How long its locks stay taken after a loss, in milliseconds.
    #[prost(uint64, tag = "9")]
    pub lock_delay_ms: u64,
    /// Whether it has become shared since it was made.
    #[prost(bool, tag = "10")]
    pub downgraded: bool,
    /// Why it was asked to yield; empty if it was not.
    #[prost(string, tag = "11")]
    pub yield_reason: String,
    /// Where it stands in a barrier or a group.
    #[prost(enumeration = "Mark", tag = "12")]
    pub mark: i32,
    /// The call that follows it, chosen at random; zero where a stream does. A retry takes an
    /// entry over by writing its own here, so that the call that broke off leaves it alone.
    #[prost(fixed64, tag = "13")]
    pub follower: u64,
}

/// Why an entry was taken out though its session lives and has not asked for it.
#[derive(Clone, PartialEq, Message)]
pub struct NoteRecord {
    /// What an operator said.
    #[prost(string, tag = "1")]
    pub text: String,
    /// The deadlock of which it was the youngest wait.
    #[prost(message, optional, tag = "2")]
    pub deadlock: Option<v1::Deadlock>,
}

/// What a party or a share says of itself, for all to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Mark {
    /// It is there.
    Here = 0,
    /// A party that is done, and waits for the others to be.
    Left = 1,
    /// It has left early: the barrier is broken, the group has failed.
    Gone = 2,
}

impl EntryRecord {
    /// Whether two acquires with one request id asked for the same thing.
    #[must_use]
    pub fn same_request(&self, other: &Self) -> bool {
        self.metadata == other.metadata
            && self.trace_id() == other.trace_id()
            && self.asked_mode() == other.asked_mode()
            && self.names == other.names
            && self.owner == other.owner
            && self.lock_delay_ms == other.lock_delay_ms
    }

    /// The span that it was asked for in, where that is known.
    #[must_use]
    pub fn trace_parent(&self) -> Option<TraceParent> {
        self.trace.parse().ok()
    }

    /// The trace that it was asked for in; empty where that is not known.
    #[must_use]
    pub fn trace_id(&self) -> Cow<'_, str> {
        let known = |parent: TraceParent| hex::encode(parent.trace_id()).into();
        self.trace_parent().map_or(Cow::Borrowed(&self.trace), known)
    }

    /// The mode that was asked for.
    fn asked_mode(&self) -> Mode {
        // What can't be read is exclusive: nobody else then holds beside it.
        Mode::from_wire(self.mode.as_ref()).unwrap_or_default()
    }

    /// How it shares its lock by now.
    #[must_use]
    pub fn mode(&self) -> Mode {
        if self.downgraded { Mode::Shared } else { self.asked_mode() }
    }

    /// Whether it stays when its session dies: it is then attached to no lease.
    #[must_use]
    pub fn outlives_session(&self) -> bool {
        let stays = matches!(self.mode(), Mode::Party { .. } | Mode::Share(OnLoss::Fail));
        stays || self.lock_delay_ms > 0
    }
}
