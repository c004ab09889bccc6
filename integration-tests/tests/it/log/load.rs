//! Replicas that write without a pause, and what has to be true of that afterwards.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use bytes::Bytes;
use lockd::testing::{EtcdLog, Event, Log as _};
use lockd_proto::clock::Instant;
use tokio::{sync::watch, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    driven::{Driven, Happened, PATIENCE, draft},
    ground::{Ground as _, OnEtcd},
};

/// How long the owner waits for an event before it looks at its lanes again.
const LOOK: Duration = Duration::from_millis(20);

/// A replica under load.
pub(super) struct Load {
    stop: CancellationToken,
    /// How many of its records are no longer under way.
    settled: watch::Receiver<usize>,
    task: JoinHandle<Worked>,
}

/// What it did.
pub(super) struct Worked {
    pub(super) log: Driven<EtcdLog>,
    pub(super) sent: Vec<Bytes>,
    /// The longest time between two proofs that its deliveries were whole and its lease lived.
    pub(super) longest_gap: Duration,
    pub(super) lives: usize,
}

impl Load {
    /// Starts a replica that writes records with its name in front.
    pub(super) async fn start(on: &OnEtcd, name: &'static str) -> Self {
        let log = on.opens().await;
        let stop = CancellationToken::new();
        let (settles, settled) = watch::channel(0);
        let task = tokio::spawn(work(log, name, (stop.clone(), settles)));
        Self { stop, settled, task }
    }

    /// Waits until so many more of its records have landed, or were lost with a life.
    pub(super) async fn goes_on(&mut self, records: usize) {
        let until = *self.settled.borrow() + records;
        let goes_on = self.settled.wait_for(|settled| *settled >= until);
        timeout(PATIENCE, goes_on).await.expect("the load goes on").expect("the load runs");
    }

    /// Stops it, and waits until nothing is under way.
    pub(super) async fn ends(self) -> Worked {
        self.stop.cancel();
        self.task.await.unwrap()
    }
}

async fn work(
    mut log: Driven<EtcdLog>,
    name: &str,
    (stop, settles): (CancellationToken, watch::Sender<usize>),
) -> Worked {
    let (mut sent, mut lives, mut longest_gap) = (Vec::new(), 1, Duration::ZERO);
    let mut confirmed: Option<Instant> = None;
    while !stop.is_cancelled() || !log.under_way.is_empty() {
        if !stop.is_cancelled() && log.me.is_some() {
            let text = format!("{name} {}", sent.len());
            if log.try_append(draft(text.clone())).is_some() {
                sent.push(Bytes::from(text));
                continue;
            }
        }
        settles.send_replace(sent.len() - log.under_way.len());
        let event = timeout(LOOK, log.event()).await;
        lives += usize::from(matches!(event, Ok(Event::Live(_))));
        let now = log.log.standing().confirmed;
        if let (Some(before), Some(now)) = (confirmed, now) {
            longest_gap = longest_gap.max(now.saturating_duration_since(before));
        }
        confirmed = now;
    }
    log.catches_up().await;
    Worked { log, sent, longest_gap, lives }
}

/// All of them, and one that reads the log now, have lived the same, in which nothing came twice, and
/// everything that was not refused or lost with a life came.
pub(super) async fn all_lived_the_same(on: &OnEtcd, mut all: Vec<Worked>) {
    for worked in &mut all {
        worked.log.catches_up().await;
    }
    let reader = on.opens().await;
    let mut counts: HashMap<&Bytes, usize> = HashMap::new();
    for happened in &reader.lived.happened {
        if let Happened::Record(_, _, bytes) = happened {
            *counts.entry(bytes).or_default() += 1;
        }
    }
    assert!(counts.values().all(|count| *count == 1), "a record came twice");
    for worked in &all {
        let lived = &worked.log.lived.happened;
        let last = lived.last().map(Happened::at).unwrap();
        assert!(*lived == reader.lived.until(last), "a replica lived something else than is read");
        let refused: HashSet<_> = worked.log.refused.iter().map(|(record, _)| record).collect();
        let missing = worked.sent.iter().filter(|it| !counts.contains_key(*it));
        let missing = missing.filter(|it| !refused.contains(it)).count();
        // Each life that was lost may have taken a record on each lane with it.
        let lost = (worked.lives - 1) * worked.log.log.profile().lanes;
        assert!(missing <= lost, "{missing} records are missing, {lost} may be");
        assert!(refused.iter().all(|it| !counts.contains_key(*it)), "a refused record landed");
    }
}
