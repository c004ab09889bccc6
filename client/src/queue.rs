//! What the server says about a lock's queue, as values of our own.

use std::{collections::BTreeMap, fmt, time::Duration};

use lockd_proto::{FencingToken, v1};

use crate::error::Fault;

/// One place in a lock's queue: the holder's, or a waiter's.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EntryInfo {
    /// The fencing token, once this entry holds the lock.
    pub token: FencingToken,
    /// The session that it belongs to.
    pub session_id: String,
    /// The name of the client, such as `api-7`.
    pub client_name: String,
    /// The host that it runs on.
    pub host: String,
    /// Its process id; zero where there is none.
    pub pid: u32,
    /// What the acquire said of itself.
    pub metadata: BTreeMap<String, String>,
    /// The trace of the acquire; may be empty.
    pub trace_id: String,
    /// How long ago it joined the queue, by the servers' wall clocks: for display only.
    pub age: Duration,
    /// What is left of its session's lease, where the server said so.
    pub lease_remaining: Option<Duration>,
    /// How it shares its lock.
    pub mode: Mode,
    /// All locks that it asked for together; empty where it is one.
    pub names: Vec<String>,
    /// Its value, such as the address of a leader.
    pub value: Vec<u8>,
    /// The logical task that it belongs to; may be empty.
    pub owner: String,
    /// How much longer it waits at most, by the servers' wall clocks: for display only.
    pub wait_remaining: Option<Duration>,
    /// Why it was asked to yield; empty if it was not.
    pub yield_reason: String,
    /// Its session has died, or it has left its barrier or group early. It stays for its
    /// lock-delay, until its barrier is cleared, or, failing its group, until it is removed.
    pub lost: bool,
}

/// How an entry shares its lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Mode {
    /// With no other entry.
    Exclusive,
    /// With other shared entries.
    Shared,
    /// With as many others as there are permits.
    Permits {
        /// The number of permits that the entry takes.
        count: u32,
        /// The number of permits that the semaphore has.
        capacity: u32,
    },
    /// With the other parties of a barrier.
    Party {
        /// The number of parties that meet.
        parties: u32,
    },
    /// With all workers of a group.
    Share,
    /// With no other entry, until there is a result.
    Once,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exclusive => f.write_str("exclusive"),
            Self::Shared => f.write_str("shared"),
            Self::Permits { count, capacity } => write!(f, "permits {count}/{capacity}"),
            Self::Party { parties } => write!(f, "party of {parties}"),
            Self::Share => f.write_str("share"),
            Self::Once => f.write_str("once"),
        }
    }
}

impl From<Option<v1::Mode>> for Mode {
    fn from(mode: Option<v1::Mode>) -> Self {
        use v1::mode::Mode as Wire;
        match mode.and_then(|mode| mode.mode) {
            None | Some(Wire::Exclusive(v1::Exclusive {})) => Self::Exclusive,
            Some(Wire::Shared(v1::Shared {})) => Self::Shared,
            Some(Wire::Permits(v1::Permits { count, capacity })) => {
                Self::Permits { count, capacity }
            }
            Some(Wire::Party(v1::Party { parties })) => Self::Party { parties },
            Some(Wire::Share(_)) => Self::Share,
            Some(Wire::Once(v1::Once {})) => Self::Once,
        }
    }
}

/// A lock and its queue.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LockInfo {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
    /// Who holds it, oldest first. Empty while a barrier waits for its parties.
    pub holders: Vec<EntryInfo>,
    /// Who waits, first in line first.
    pub waiters: Vec<EntryInfo>,
    /// The store revision of the view that answered.
    pub revision: u64,
}

impl EntryInfo {
    pub(crate) fn from_wire(entry: v1::Entry) -> Result<Self, Fault> {
        let client = entry.client.unwrap_or_default();
        Ok(Self {
            token: FencingToken::new(entry.token)
                .ok_or_else(|| Fault::protocol("the server sent an entry without a token"))?,
            session_id: entry.session_id,
            client_name: client.name,
            host: client.host,
            pid: client.pid,
            metadata: entry.metadata.into_iter().collect(),
            trace_id: entry.trace_id,
            age: entry.age.and_then(|age| age.try_into().ok()).unwrap_or_default(),
            lease_remaining: entry.lease_remaining.and_then(|left| left.try_into().ok()),
            mode: entry.mode.into(),
            names: entry.names,
            value: entry.value,
            owner: entry.owner,
            wait_remaining: entry.wait_remaining.and_then(|left| left.try_into().ok()),
            yield_reason: entry.yield_reason,
            lost: entry.lost,
        })
    }
}

impl LockInfo {
    /// Who holds it; of several, who has held it longest.
    #[must_use]
    pub fn holder(&self) -> Option<&EntryInfo> {
        self.holders.first()
    }

    pub(crate) fn from_wire(lock: v1::Lock, revision: u64) -> Result<Self, Fault> {
        let holders = lock.holders.into_iter().map(EntryInfo::from_wire);
        let waiters = lock.waiters.into_iter().map(EntryInfo::from_wire);
        Ok(Self {
            namespace: lock.namespace,
            name: lock.name,
            holders: holders.collect::<Result<_, _>>()?,
            waiters: waiters.collect::<Result<_, _>>()?,
            revision,
        })
    }
}
