//! The one watch: all that follows a revision, from whichever member answers.
//!
//! A watch can fall silent for ever without an error, so it is asked for its progress, and left when it
//! does not answer. It goes on elsewhere from the revision that it had reached.

use std::{sync::Arc, time::Duration};

use etcd_client::{
    EventType, ResponseHeader, WatchOptions, WatchRequestSender, WatchResponse, WatchResponseStream,
};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout};

use super::{
    endpoints::{ATTEMPT, Pauses},
    fault::{EtcdRefusal, Fault, classify},
    history::Seen,
    opening::Stop,
    replica::Replica,
    roster::MemberId,
};
use crate::log::LogError;

/// How often a watch is asked for its progress.
const PROGRESS: Duration = Duration::from_secs(1);

/// How long a question for progress may stay without an answer before the watch is left.
const SILENCE: Duration = Duration::from_millis(1500);

/// The largest message. etcd splits what is larger than a request may be.
const MAX_MESSAGE: usize = 64 * 1024 * 1024;

/// A change of one key.
pub(super) struct KeyChange {
    pub(super) revision: i64,
    pub(super) key: Vec<u8>,
    /// The new value; `None` where it was deleted.
    pub(super) value: Option<Vec<u8>>,
}

/// What a watch has brought: changes in order, and up to which revision there are no others.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) changes: Vec<KeyChange>,
    pub(super) reached: i64,
}

/// A watch that goes on over the members.
pub(super) struct Watch {
    replica: Arc<Replica>,
    /// What was delivered last.
    at: i64,
    link: Option<WatchLink>,
    pauses: Pauses,
}

struct WatchLink {
    member: MemberId,
    sender: WatchRequestSender,
    stream: WatchResponseStream,
    ticks: Interval,
    /// The first question for progress that was not answered yet.
    asked: Option<Instant>,
    /// The changes of the newest revision in a message that goes on in the next.
    held: Vec<KeyChange>,
}

/// Why a link is given up.
enum Broken {
    Stop(Stop),
    Link(String),
}

impl From<Fault> for Broken {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Refused(EtcdRefusal::Compacted) => Self::Stop(Stop::Compacted),
            Fault::Refused(refusal) => Self::Link(LogError::from(refusal).to_string()),
            Fault::NotSent(why) | Fault::Unknown(why) => Self::Link(why),
        }
    }
}

impl Watch {
    pub(super) fn new(replica: &Arc<Replica>, at: i64) -> Self {
        let pauses = Pauses::new(&replica.endpoints);
        Self { replica: replica.clone(), at, link: None, pauses }
    }

    /// What comes next. May be nothing but progress.
    ///
    /// # Cancel safety
    /// Nothing is lost: what was not returned is asked for again.
    pub(super) async fn next(&mut self) -> Result<Batch, Stop> {
        loop {
            let step = match &mut self.link {
                None => self.connect().await.map(|()| None),
                Some(link) => match link.next(&self.replica).await {
                    Ok(response) => self.take(response).map(Some),
                    Err(why) => Err(Broken::Link(why)),
                },
            };
            match step {
                Ok(Some(batch)) => return Ok(batch),
                Ok(None) => {}
                Err(Broken::Stop(stop)) => return Err(stop),
                Err(Broken::Link(why)) => {
                    tracing::warn!(why, "the watch on etcd broke: opening it anew");
                    if let Some(link) = self.link.take() {
                        self.replica.endpoints.leave(link.member);
                    }
                    self.pauses.after_failure(&why).await;
                }
            }
        }
    }

    async fn connect(&mut self) -> Result<(), Broken> {
        let endpoints = &self.replica.endpoints;
        let (member, client) = endpoints.client().await?;
        let (from, end) = self.replica.keys.watched();
        // From a revision that exists: etcd answers no question for progress before the watch's first
        // one does. What was delivered already is skipped.
        let options =
            WatchOptions::new().with_range(end).with_start_revision(self.at).with_fragment();
        let mut client = client.watch_client().max_decoding_message_size(MAX_MESSAGE);
        let opened = match timeout(ATTEMPT, client.watch(from, Some(options))).await {
            Ok(opened) => opened.map_err(|error| classify(&error)),
            Err(_) => Err(Fault::NotSent("a watch could not be opened in time".to_owned())),
        };
        if opened.is_err() {
            endpoints.leave(member);
        }
        let (sender, stream) = opened?.split();
        let mut ticks = interval(PROGRESS);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.link =
            Some(WatchLink { member, sender, stream, ticks, asked: None, held: Vec::new() });
        Ok(())
    }

    fn take(&mut self, response: WatchResponse) -> Result<Batch, Broken> {
        if response.compact_revision() > 0 {
            return Err(Broken::Stop(Stop::Compacted));
        }
        if response.canceled() {
            return Err(Broken::Link(response.cancel_reason().to_owned()));
        }
        let header = response.header();
        // The revision of a watch may lag behind; only its cluster has to be the same.
        let known = self.replica.watermark.now();
        let here = Seen { cluster: Seen::of(header).cluster, ..known };
        if let Some(why) = known.contradicts(&here) {
            return Err(Broken::Stop(Stop::Failed(LogError::Broken(format!(
                "the watch was answered by another etcd cluster: {why}"
            )))));
        }
        let progress = header.map_or(0, ResponseHeader::revision);
        let is_progress = response.events().is_empty() && !response.created();
        let Some(link) = &mut self.link else { return Ok(Batch::default()) };
        let mut batch = Batch { changes: link.changes(response), reached: self.at };
        batch.changes.retain(|change| change.revision > self.at);
        // The answer to the watch's creation confirms nothing: it comes before events.
        if is_progress {
            self.pauses = Pauses::new(&self.replica.endpoints);
            batch.reached = batch.reached.max(progress);
        }
        if let Some(last) = batch.changes.last() {
            batch.reached = last.revision;
        }
        self.at = batch.reached;
        Ok(batch)
    }
}

impl WatchLink {
    /// The changes of whole revisions. The newest one of a message that goes on in another is held back
    /// until that has come: a link may break in between.
    fn changes(&mut self, response: WatchResponse) -> Vec<KeyChange> {
        let goes_on = response.0.fragment;
        let mut changes = std::mem::take(&mut self.held);
        let deleted = EventType::Delete as i32;
        changes.extend(response.0.events.into_iter().filter_map(|event| {
            let (is_put, kv) = (event.r#type != deleted, event.kv?);
            let value = is_put.then_some(kv.value);
            Some(KeyChange { revision: kv.mod_revision, key: kv.key, value })
        }));
        if goes_on && let Some(newest) = changes.last().map(|change| change.revision) {
            let whole = changes.partition_point(|change| change.revision < newest);
            self.held = changes.split_off(whole);
        }
        changes
    }

    async fn next(&mut self, replica: &Replica) -> Result<WatchResponse, String> {
        let elsewhere = replica.endpoints.has_others();
        loop {
            let due = self.asked.map_or_else(Instant::now, |asked| asked + SILENCE);
            // Each arm is cancel safe: a message is taken whole or not at all. What has arrived comes
            // first, so that time in which it was not read is not taken for silence.
            tokio::select! {
                biased;
                message = self.stream.message() => {
                    self.asked = None;
                    return match message {
                        Ok(Some(response)) => Ok(response),
                        Ok(None) => Err("the stream ended".to_owned()),
                        Err(error) => Err(error.to_string()),
                    };
                }
                () = replica.endpoints.silent(self.member), if elsewhere => {
                    return Err("its member does not answer".to_owned());
                }
                () = tokio::time::sleep_until(due), if self.asked.is_some() => {
                    return Err(format!("silent for {SILENCE:?}"));
                }
                _ = self.ticks.tick() => {
                    let asked = timeout(PROGRESS, self.sender.request_progress());
                    if !matches!(asked.await, Ok(Ok(()))) {
                        return Err("it takes no requests".to_owned());
                    }
                    self.asked.get_or_insert_with(Instant::now);
                }
            }
        }
    }
}
