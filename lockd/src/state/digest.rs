//! The digest of a state: the sum of the hashes of its items.
//!
//! Each change of an item takes its hash off the sum before, and adds the new one after, so the
//! digest costs in proportion to what changes. What follows from other items (who holds, which
//! entries a session has) and what a replica knows only by itself is not a part of it. The same two
//! steps keep the item for a checkpoint that has not come to it yet.

use std::{borrow::Cow, collections::BTreeMap};

use bytes::Bytes;
use lockd_proto::SessionId;
use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_128;

use super::{Entry, Finished, Session, State};
use crate::record::{LockId, Position, ReplicaId};

/// A part of the state, as it is hashed and as it is written to a checkpoint. It says everything that
/// [`State::apply`] looks at.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum DigestItem<'a> {
    /// What there is once.
    Meta(Meta),
    Session(Cow<'a, Session>),
    Entry(Cow<'a, Entry>),
    Result {
        lock: Cow<'a, LockId>,
        at: Position,
        result: Cow<'a, Bytes>,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Meta {
    pub(super) level: u32,
    pub(super) replicas: BTreeMap<ReplicaId, u32>,
}

impl DigestItem<'_> {
    /// Its bytes, behind what is in `buffer`.
    pub(super) fn encode(&self, buffer: Vec<u8>) -> Vec<u8> {
        // Writing to memory does not fail, and every field has a length.
        postcard::to_extend(self, buffer).unwrap_or_default()
    }
}

impl State {
    /// The digest.
    #[must_use]
    pub fn digest(&self) -> u128 {
        self.digest
    }

    /// How many bytes a checkpoint of it would have.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn change_meta(&mut self, change: impl FnOnce(&mut Self)) {
        self.count(Sign::Off, |state| Some(DigestItem::Meta(state.meta())));
        change(self);
        self.seal_meta();
    }

    pub(super) fn seal_meta(&mut self) {
        self.count(Sign::On, |state| Some(DigestItem::Meta(state.meta())));
    }

    pub(super) fn meta(&self) -> Meta {
        Meta { level: self.level, replicas: self.replicas.clone() }
    }

    /// An entry is about to change, or to go.
    pub(super) fn open_entry(&mut self, slot: u32) {
        self.copy_entry(slot);
        self.count(Sign::Off, |state| {
            state.entry(slot).map(|it| DigestItem::Entry(Cow::Borrowed(it)))
        });
    }

    /// An entry is as it is to be.
    pub(super) fn seal_entry(&mut self, slot: u32) {
        self.count(Sign::On, |state| {
            state.entry(slot).map(|it| DigestItem::Entry(Cow::Borrowed(it)))
        });
    }

    /// A session is about to change, or to go.
    pub(super) fn open_session_item(&mut self, id: SessionId) {
        self.copy_session(id);
        self.count(Sign::Off, |state| {
            state.session(id).map(|it| DigestItem::Session(Cow::Borrowed(it)))
        });
    }

    /// A session is as it is to be.
    pub(super) fn seal_session_item(&mut self, id: SessionId) {
        self.count(Sign::On, |state| {
            state.session(id).map(|it| DigestItem::Session(Cow::Borrowed(it)))
        });
    }

    pub(super) fn store_result(&mut self, lock: LockId, finished: Finished) {
        self.results.insert(lock.clone(), finished);
        self.count(Sign::On, |state| state.result_item(&lock));
    }

    pub(super) fn remove_result(&mut self, lock: &LockId) -> bool {
        self.copy_result(lock);
        self.count(Sign::Off, |state| state.result_item(lock));
        self.results.remove(lock).is_some()
    }

    pub(super) fn result_item(&self, lock: &LockId) -> Option<DigestItem<'_>> {
        let (lock, Finished { at, result }) = self.results.get_key_value(lock)?;
        Some(DigestItem::Result {
            lock: Cow::Borrowed(lock),
            at: *at,
            result: Cow::Borrowed(result),
        })
    }

    fn count(&mut self, sign: Sign, item: impl FnOnce(&Self) -> Option<DigestItem<'_>>) {
        let mut buffer = std::mem::take(&mut self.scratch);
        buffer.clear();
        let Some(item) = item(self) else {
            self.scratch = buffer;
            return;
        };
        self.scratch = item.encode(buffer);
        let hash = hash(&self.scratch);
        let bytes = u64::try_from(self.scratch.len()).unwrap_or(u64::MAX);
        match sign {
            Sign::On => {
                self.digest = self.digest.wrapping_add(hash);
                self.bytes += bytes;
            }
            Sign::Off => {
                self.digest = self.digest.wrapping_sub(hash);
                self.bytes = self.bytes.saturating_sub(bytes);
            }
        }
    }
}

/// The hash of an encoded item.
pub(super) fn hash(item: &[u8]) -> u128 {
    XxHash3_128::oneshot(item)
}

#[derive(Debug, Clone, Copy)]
enum Sign {
    On,
    Off,
}
