//! What is stored under a key, as protobuf: fields may be added, never renumbered.

use std::collections::HashMap;

use bytes::Bytes;
use prost::Message;

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
}

/// An entry in a lock's queue. Never changed once written.
#[derive(Clone, PartialEq, Message)]
pub struct EntryRecord {
    /// What the acquire said of itself.
    #[prost(map = "string, string", tag = "1")]
    pub metadata: HashMap<String, String>,
    /// The trace of the acquire; may be empty.
    #[prost(string, tag = "2")]
    pub trace_id: String,
    /// When it was made, in milliseconds of the Unix epoch: to show, never to decide.
    #[prost(uint64, tag = "3")]
    pub made_unix_ms: u64,
}

impl EntryRecord {
    /// Whether two acquires with one request id asked for the same thing.
    #[must_use]
    pub fn same_request(&self, other: &Self) -> bool {
        self.metadata == other.metadata && self.trace_id == other.trace_id
    }
}
