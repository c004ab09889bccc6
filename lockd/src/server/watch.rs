//! `LockService.Watch`: the locks as they are, then as they change.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures::Stream;
use lockd_proto::v1::{self, watch_response::Event};
use tonic::Status;

use super::translate;
use crate::core::observe::{WatchEvent, Watched};

/// What an observer is sent.
#[derive(Debug)]
pub(crate) struct WatchStream {
    /// `None` once it has ended.
    watched: Option<Arc<Watched>>,
}

impl WatchStream {
    pub(super) fn new(watched: Arc<Watched>) -> Self {
        Self { watched: Some(watched) }
    }
}

impl Stream for WatchStream {
    type Item = Result<v1::WatchResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(watched) = &self.watched else { return Poll::Ready(None) };
        match std::task::ready!(watched.poll_seen(cx)) {
            Ok(seen) => Poll::Ready(Some(Ok(to_response(seen)))),
            Err(error) => {
                self.watched = None;
                Poll::Ready(Some(Err(error.into())))
            }
        }
    }
}

fn to_response(seen: WatchEvent) -> v1::WatchResponse {
    let (event, at) = match seen {
        WatchEvent::Changed(queue, at) => (Event::Changed(translate::to_lock(&queue)), at),
        WatchEvent::Freed(lock, at) => (Event::Freed(translate::to_ref(&lock)), at),
        WatchEvent::SnapshotEnd(at) => (Event::SnapshotEnd(v1::SnapshotEnd {}), at),
        WatchEvent::Confirmed(at) => (Event::Confirmed(v1::Confirmed {}), at),
    };
    v1::WatchResponse { event: Some(event), revision: at.0 }
}
