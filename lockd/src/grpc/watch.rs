//! `LockService.Watch`: the locks as they are, then as they change.

use std::{collections::VecDeque, sync::Arc};

use futures::{StreamExt, stream, stream::BoxStream};
use lockd_proto::v1::{self, watch_response::Event};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{explain::to_ref, status::to_status, translate};
use crate::{
    engine::Engine,
    error::Error,
    keys::LockId,
    store::Revision,
    view::{Observer, Scope, View},
};

/// Locks that are read from the view at a time for the first part of a watch.
const PAGE: usize = 256;

struct Watch {
    view: Arc<View>,
    drain: CancellationToken,
    observer: Observer,
    /// Messages that are ready.
    ready: VecDeque<v1::WatchResponse>,
    part: Part,
}

enum Part {
    Snapshot { scope: Scope, after: Option<LockId> },
    Changes,
    Over,
}

pub(super) fn watch(
    engine: &Engine,
    scope: Scope,
) -> BoxStream<'static, Result<v1::WatchResponse, Status>> {
    let watch = Watch {
        view: engine.view.clone(),
        drain: engine.drain.clone(),
        // Before the snapshot is read, so that no change falls between the two.
        observer: engine.view.observe(scope.clone()),
        ready: VecDeque::new(),
        part: Part::Snapshot { scope, after: None },
    };
    stream::unfold(watch, async |mut watch| {
        let next = watch.next().await?;
        Some((next, watch))
    })
    .boxed()
}

impl Watch {
    async fn next(&mut self) -> Option<Result<v1::WatchResponse, Status>> {
        loop {
            if let Some(ready) = self.ready.pop_front() {
                return Some(Ok(ready));
            }
            match &mut self.part {
                Part::Snapshot { .. } => self.read_page(),
                Part::Changes => {
                    tokio::select! {
                        () = self.drain.cancelled() => {
                            self.part = Part::Over;
                            return Some(Err(to_status(&Error::Draining)));
                        }
                        changed = self.observer.changed() => self.read_changes(&changed),
                        revision = self.view.confirmed() => self.confirm(revision),
                    }
                }
                Part::Over => return None,
            }
        }
    }

    fn read_page(&mut self) {
        let Part::Snapshot { scope, after } = &mut self.part else {
            return;
        };
        let page = match scope {
            Scope::Prefix(prefix) => {
                let from = after.as_ref().map(std::borrow::Borrow::borrow);
                self.view.list(prefix, from, PAGE)
            }
            Scope::One(lock) if after.is_none() => self.view.queue(lock).into_iter().collect(),
            Scope::One(_) => vec![],
        };
        let revision = self.view.revision().0;
        let locks = page.iter().map(|queue| Event::Changed(translate::to_lock(queue)));
        self.ready.extend(locks.map(|event| v1::WatchResponse { event: Some(event), revision }));
        match page.last() {
            Some(last) => *after = Some(last.lock.clone()),
            None => {
                let event = Some(Event::SnapshotEnd(v1::SnapshotEnd {}));
                self.ready.push_back(v1::WatchResponse { event, revision });
                self.part = Part::Changes;
            }
        }
    }

    fn confirm(&mut self, revision: Revision) {
        let event = Some(Event::Confirmed(v1::Confirmed {}));
        self.ready.push_back(v1::WatchResponse { event, revision: revision.0 });
    }

    fn read_changes(&mut self, changed: &std::collections::BTreeSet<LockId>) {
        let revision = self.view.revision().0;
        for lock in changed {
            let event = match self.view.queue(lock) {
                Some(queue) => Event::Changed(translate::to_lock(&queue)),
                None => Event::Freed(to_ref(lock)),
            };
            self.ready.push_back(v1::WatchResponse { event: Some(event), revision });
        }
    }
}
