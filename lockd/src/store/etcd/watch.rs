//! The one watch: a snapshot, then every change, from whichever member answers.
//!
//! A watch can fall silent for ever without an error, so it is asked for its progress, and
//! left when it does not answer. It goes on elsewhere from the revision it had reached; where
//! that was compacted, with a new snapshot.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use etcd_client::{
    Event, EventType, GetOptions, WatchOptions, WatchRequestSender, WatchResponse,
    WatchResponseStream,
};
use tokio::time::{Instant, MissedTickBehavior};

use super::{
    EtcdStore, Inner,
    endpoints::{ATTEMPT, Pauses},
    fault::{Fault, classify},
    roster::MemberId,
    txn::{record, revision},
};
use crate::store::{Change, Feed, Key, StoreError};

/// How often a watch is asked for its progress.
const PROGRESS: Duration = Duration::from_secs(1);

/// How long a watch may be silent, progress included, before it is left.
const SILENCE: Duration = Duration::from_secs(3);

/// Records that are read at a time: with the largest values well below a message's limit.
const PAGE: i64 = 500;

/// The largest message of a watch: the end of a lease with very many keys is one of them.
const MAX_MESSAGE: usize = 256 * 1024 * 1024;

pub(super) struct Watch {
    inner: Arc<Inner>,
    /// What was delivered last; `None` when a snapshot is needed.
    at: Option<i64>,
    link: Option<Link>,
    ready: VecDeque<Feed>,
    pauses: Pauses,
}

struct Link {
    member: MemberId,
    sender: WatchRequestSender,
    stream: WatchResponseStream,
    ticks: tokio::time::Interval,
    heard: Instant,
}

/// Why a link is given up.
enum Gone {
    Failed(String),
    Compacted,
}

impl Watch {
    pub(super) fn new(store: &EtcdStore) -> Self {
        let inner = store.inner.clone();
        let pauses = Pauses::new(&inner.endpoints);
        Self { inner, at: None, link: None, ready: VecDeque::new(), pauses }
    }

    pub(super) async fn next(&mut self) -> Feed {
        loop {
            if let Some(feed) = self.ready.pop_front() {
                return feed;
            }
            let step = match &mut self.link {
                None => self.connect().await,
                Some(link) => match link.next().await {
                    Ok(response) => self.take(&response),
                    Err(gone) => Err(gone),
                },
            };
            match step {
                Ok(()) => {}
                Err(Gone::Compacted) => {
                    tracing::warn!("the watch's revision was compacted: reading everything anew");
                    (self.at, self.link) = (None, None);
                }
                Err(Gone::Failed(why)) => {
                    tracing::warn!(why, "the watch on etcd broke: opening it anew");
                    if let Some(link) = self.link.take() {
                        self.inner.endpoints.leave(link.member);
                    }
                    self.pauses.after_failure().await;
                }
            }
        }
    }

    async fn connect(&mut self) -> Result<(), Gone> {
        let failed = |error: StoreError| Gone::Failed(error.to_string());
        let at = match self.at {
            Some(at) => at,
            None => {
                let (at, snapshot) = snapshot(&self.inner).await.map_err(failed)?;
                self.ready.push_back(snapshot);
                self.at = Some(at);
                at
            }
        };
        let fault = |fault| match fault {
            Fault::Refused(error) => Gone::Failed(error.to_string()),
            Fault::NotSent(text) | Fault::Unknown(text) => Gone::Failed(text),
        };
        let (member, client) = self.inner.endpoints.client().await.map_err(fault)?;
        // From a revision that exists: etcd answers no request for progress before the watch's
        // first one does. What was delivered already is skipped.
        let options = WatchOptions::new().with_prefix().with_start_revision(at);
        let mut client = client.watch_client().max_decoding_message_size(MAX_MESSAGE);
        let opened = client.watch(self.inner.keyspace.prefix(), Some(options));
        let opened = match tokio::time::timeout(ATTEMPT, opened).await {
            Ok(opened) => opened.map_err(|error| classify(&error)),
            Err(_) => Err(Fault::NotSent("a watch could not be opened in time".to_owned())),
        };
        if opened.is_err() {
            self.inner.endpoints.leave(member);
        }
        let (sender, stream) = opened.map_err(fault)?.split();
        let mut ticks = tokio::time::interval(PROGRESS);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.link = Some(Link { member, sender, stream, ticks, heard: Instant::now() });
        Ok(())
    }

    fn take(&mut self, response: &WatchResponse) -> Result<(), Gone> {
        if response.compact_revision() > 0 {
            return Err(Gone::Compacted);
        }
        if response.canceled() {
            return Err(Gone::Failed(response.cancel_reason().to_owned()));
        }
        let reached = response.header().map_or(0, |header| header.revision());
        if response.events().is_empty() {
            // The answer to the watch's creation is no confirmation: it comes before events.
            if !response.created() {
                self.pauses = Pauses::new(&self.inner.endpoints);
                self.at = self.at.max(Some(reached));
                self.ready.push_back(Feed::Confirmed(revision(reached)));
            }
            return Ok(());
        }
        let mut steps: BTreeMap<i64, Vec<Change>> = BTreeMap::new();
        for event in response.events() {
            let Some(kv) = event.kv() else { continue };
            let step = steps.entry(kv.mod_revision()).or_default();
            step.extend(change(&self.inner, event));
        }
        let delivered = self.at;
        for (at, changes) in steps.into_iter().filter(|(at, _)| Some(*at) > delivered) {
            self.at = Some(at);
            let revision = revision(at);
            // Nothing is left of a write of the fence.
            let feed = if changes.is_empty() {
                Feed::Confirmed(revision)
            } else {
                Feed::Changes { revision, changes }
            };
            self.ready.push_back(feed);
        }
        Ok(())
    }
}

fn change(inner: &Inner, event: &Event) -> Option<Change> {
    let kv = event.kv()?;
    if inner.keyspace.is_fence(kv.key()) {
        return None;
    }
    match event.event_type() {
        EventType::Put => record(&inner.keyspace, kv).map(Change::Put),
        EventType::Delete => {
            let key = inner.keyspace.strip(kv.key())?;
            Some(Change::Deleted(Key::new(key.to_vec())))
        }
    }
}

impl Link {
    async fn next(&mut self) -> Result<WatchResponse, Gone> {
        loop {
            // Both arms are cancel safe: a message is taken whole or not at all.
            tokio::select! {
                message = self.stream.message() => {
                    self.heard = Instant::now();
                    return match message {
                        Ok(Some(response)) => Ok(response),
                        Ok(None) => Err(Gone::Failed("the stream ended".to_owned())),
                        Err(error) => Err(Gone::Failed(error.to_string())),
                    };
                }
                _ = self.ticks.tick() => {
                    if self.heard.elapsed() > SILENCE {
                        return Err(Gone::Failed(format!("silent for {SILENCE:?}")));
                    }
                    let asked = self.sender.request_progress();
                    let asked = tokio::time::timeout(PROGRESS, asked).await;
                    if !matches!(asked, Ok(Ok(()))) {
                        return Err(Gone::Failed("it takes no requests".to_owned()));
                    }
                }
            }
        }
    }
}

/// Everything under the prefix, at one revision, a page at a time.
async fn snapshot(inner: &Inner) -> Result<(i64, Feed), StoreError> {
    let mut records = Vec::new();
    let mut from = inner.keyspace.prefix();
    let mut at = 0;
    loop {
        let page = inner.endpoints.call(|mut client| {
            let options = GetOptions::new()
                .with_range(inner.keyspace.end())
                .with_limit(PAGE)
                .with_revision(at);
            let from = from.clone();
            async move { client.get(from, Some(options)).await }
        });
        let page = page.await?;
        if at == 0 {
            at = page.header().map_or(0, |header| header.revision());
        }
        let found = page.kvs().iter().filter(|kv| !inner.keyspace.is_fence(kv.key()));
        records.extend(found.filter_map(|kv| record(&inner.keyspace, kv)));
        match page.kvs().last() {
            // The first key after the last one.
            Some(last) if page.more() => from = [last.key(), b"\0"].concat(),
            _ => break,
        }
    }
    Ok((at, Feed::Snapshot { revision: revision(at), records }))
}
