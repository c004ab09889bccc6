//! A session: what lives as long as its client renews its lease, and what it has open.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use lockd_proto::{RequestId, SessionId};
use serde::{Deserialize, Serialize};

use super::effect::Refusal;
use crate::record::{Client, Position, ReplicaId};

/// How many ended requests a session remembers. A constant of level 1.
pub(super) const ENDED: usize = 64;

/// A session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// The place where it was opened.
    pub opened: Position,
    /// The place where it was last attached.
    pub epoch: Position,
    /// The replica that it is attached to.
    pub author: ReplicaId,
    /// The newest of its streams; 0 if it has had none.
    pub stream: u64,
    /// How long it lives without a keepalive, in milliseconds.
    pub ttl_ms: u32,
    /// SHA-256 of its secret.
    pub secret_hash: [u8; 32],
    /// Who opened it.
    pub client: Arc<Client>,
    /// Requests that have ended, the latest last: see [`Ending`].
    pub(super) ended: VecDeque<(RequestId, Ending)>,
    /// Its entries, by the requests that made them. Follows from the entries.
    #[serde(skip)]
    pub(super) entries: HashMap<RequestId, u32>,
}

/// How a request has ended. Kept where its client may ask again without having heard of it: where
/// others have ended it, and where the call was not numbered, so that a late copy of it makes no
/// entry that no client waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Ending {
    /// Its own session has.
    BySession,
    /// An operator has.
    Forced,
    /// Its barrier was broken.
    Broken,
    /// It was part of a deadlock.
    Deadlock,
}

impl Ending {
    pub(super) fn refusal(self) -> Refusal {
        match self {
            Self::BySession => Refusal::Cancelled,
            Self::Forced => Refusal::Forced,
            Self::Broken => Refusal::Broken,
            Self::Deadlock => Refusal::Deadlock(Box::default()),
        }
    }
}

impl Session {
    /// How many entries it has.
    #[must_use]
    pub fn entries_len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn ending(&self, request: RequestId) -> Option<Ending> {
        self.ended.iter().find(|(id, _)| *id == request).map(|(_, ending)| *ending)
    }

    pub(super) fn remember(&mut self, request: RequestId, ending: Ending) {
        self.ended.retain(|(id, _)| *id != request);
        if self.ended.len() == ENDED {
            self.ended.pop_front();
        }
        self.ended.push_back((request, ending));
    }
}
