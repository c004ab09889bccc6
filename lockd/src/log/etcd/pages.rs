//! Reading large ranges at one revision, a page at a time.

use std::collections::VecDeque;

use etcd_client::{GetOptions, KeyValue};

use super::{
    fault::Refusal,
    keys::{Named, Range},
    replica::Replica,
};
use crate::record::ReplicaId;

/// What a page has at most, in bytes, beside the record that goes over it.
const PAGE_BYTES: usize = 1024 * 1024;

/// What the pages of all lanes together have at most.
const READ_AHEAD_BYTES: usize = 16 * 1024 * 1024;

/// The keys of a first page, whose size is not known, and of any page.
const FIRST: usize = 16;
const MOST: usize = 1024;

/// The largest answer: a page of the largest records, with room.
const MAX_MESSAGE: usize = 64 * 1024 * 1024;

/// A range that is read from its start to its end.
pub(super) struct Pages {
    next: Option<Vec<u8>>,
    end: Vec<u8>,
    revision: i64,
    limit: usize,
    bytes: usize,
    read: VecDeque<KeyValue>,
}

impl Pages {
    /// Reads a range as it was at a revision.
    pub(super) fn new((from, end): Range, revision: i64) -> Self {
        let read = VecDeque::new();
        Self { next: Some(from), end, revision, limit: FIRST, bytes: PAGE_BYTES, read }
    }

    /// The next key.
    pub(super) async fn next(&mut self, replica: &Replica) -> Result<Option<KeyValue>, Refusal> {
        self.fill(replica).await?;
        Ok(self.read.pop_front())
    }

    async fn fill(&mut self, replica: &Replica) -> Result<(), Refusal> {
        if !self.read.is_empty() {
            return Ok(());
        }
        let Some(from) = self.next.take() else { return Ok(()) };
        let options = GetOptions::new()
            .with_range(self.end.clone())
            .with_limit(i64::try_from(self.limit).unwrap_or(i64::MAX))
            .with_revision(self.revision);
        let read = replica.endpoints.call(|client| {
            let (from, options) = (from.clone(), options.clone());
            let mut client = client.kv_client().max_decoding_message_size(MAX_MESSAGE);
            async move { client.get(from, Some(options)).await }
        });
        let mut page = read.await?;
        let more = page.more();
        self.read = page.take_kvs().into();
        let bytes: usize = self.read.iter().map(|kv| kv.key().len() + kv.value().len()).sum();
        let average = (bytes / self.read.len().max(1)).max(1);
        self.limit = (self.bytes / average).clamp(1, MOST);
        if let Some(last) = self.read.back().filter(|_| more) {
            // The first key after the last one.
            self.next = Some([last.key(), b"\0"].concat());
        }
        Ok(())
    }
}

/// All records, merged over the lanes in the order of their revisions.
pub(super) struct Records {
    lanes: Vec<((ReplicaId, usize), Pages)>,
}

/// A record as it was read.
pub(super) struct Found {
    pub(super) at: (ReplicaId, usize),
    pub(super) number: u64,
    pub(super) kv: KeyValue,
}

impl Records {
    /// Finds the lanes that have records: one read of one key each.
    pub(super) async fn find(replica: &Replica, revision: i64) -> Result<Self, Refusal> {
        let (mut from, end) = replica.keys.records();
        let mut lanes = Vec::new();
        loop {
            let options = GetOptions::new().with_range(end.clone()).with_limit(1);
            let options = options.with_revision(revision).with_keys_only();
            let first = replica.endpoints.get(from.clone(), Some(options)).await?;
            let Some(kv) = first.kvs().first() else { break };
            match replica.keys.parse(kv.key()) {
                Named::Record { author, lane, .. } => {
                    let range = replica.keys.lane_records(author, lane);
                    from.clone_from(&range.1);
                    lanes.push(((author, lane), Pages::new(range, revision)));
                }
                _ => from = [kv.key(), b"\0"].concat(),
            }
        }
        let share = (READ_AHEAD_BYTES / lanes.len().max(1)).min(PAGE_BYTES);
        lanes.iter_mut().for_each(|(_, pages)| pages.bytes = share);
        Ok(Self { lanes })
    }

    /// The next record.
    pub(super) async fn next(&mut self, replica: &Replica) -> Result<Option<Found>, Refusal> {
        for (_, pages) in &mut self.lanes {
            pages.fill(replica).await?;
        }
        let revision = |pages: &Pages| pages.read.front().map(KeyValue::mod_revision);
        let lanes = self.lanes.iter_mut();
        let first = lanes.filter_map(|(at, pages)| Some((revision(pages)?, *at, pages)));
        let Some((_, at, pages)) = first.min_by_key(|(revision, ..)| *revision) else {
            return Ok(None);
        };
        let Some(kv) = pages.read.pop_front() else { return Ok(None) };
        let number = match replica.keys.parse(kv.key()) {
            Named::Record { number, .. } => number,
            _ => 0,
        };
        Ok(Some(Found { at, number, kv }))
    }
}
