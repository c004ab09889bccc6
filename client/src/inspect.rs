//! Looking at locks, and operating on them: unary calls and the watch.

use std::time::Duration;

use lockd_proto::{
    FencingToken, LockName,
    clock::Clock,
    v1::{
        self, admin_service_client::AdminServiceClient, lock_service_client::LockServiceClient,
        watch_response::Event,
    },
};
use tonic::Streaming;

use crate::{
    client::{Client, Metadata, Repeat},
    context::Context,
    error::{Call, Error, ErrorKind, Fault},
    queue::{EntryInfo, LockInfo},
};

/// Locks a page when all of them are wanted: the server's most.
const PAGE: u32 = 1000;

/// The most pages that a listing reads, so that a server can't keep it going for ever.
const MAX_PAGES: usize = 10_000;

/// How long a watch may be silent. The server gives a sign of life every 2 s or so, as long as
/// it hears from its store.
const SILENCE: Duration = Duration::from_secs(6);

/// Some locks of a listing, in name order.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Page {
    /// The locks.
    pub locks: Vec<LockInfo>,
    /// Names the next page; `None` when this is the last one.
    pub next: Option<String>,
    /// The store revision of the view that answered.
    pub revision: u64,
}

/// A replica's own account of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerStatus {
    /// Its version.
    pub version: String,
    /// Its store: `embedded`, `memory` or `etcd`.
    pub store: String,
    /// Its name.
    pub replica: String,
    /// Whether it grants locks at this moment.
    pub ready: bool,
    /// Why not, where it does not.
    pub not_ready_reason: String,
    /// The store revision of its view.
    pub revision: u64,
    /// How long ago the store last confirmed the view.
    pub view_age: Duration,
    /// Sessions in the store.
    pub sessions: u64,
    /// Sessions whose stream ends at this replica.
    pub attached_sessions: u64,
    /// Locks that are held.
    pub locks: u64,
    /// Entries that wait.
    pub waiters: u64,
    /// How long it has been running.
    pub uptime: Duration,
    /// The address that answered.
    pub address: String,
}

/// One step of a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LockEvent {
    /// A lock as it is now.
    Changed(LockInfo),
    /// A lock that lost its last entry.
    Freed {
        /// The namespace.
        namespace: String,
        /// The name.
        name: String,
    },
    /// The current locks are complete; what follows are changes.
    SnapshotEnd,
}

/// The locks under a prefix: first as they are, then as they change. Made by
/// [`Client::watch`]; dropping it ends the watch.
#[derive(Debug)]
pub struct LockWatch {
    call: Call,
    context: Option<Context>,
    events: Option<Streaming<v1::WatchResponse>>,
    clock: Clock,
}

impl Client {
    /// Describes one lock: its holder, what is left of the holder's lease, and its queue.
    /// `None` if it is free. A long queue is read a page at a time, each as it is then.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for a bad name, [`ErrorKind::Unavailable`] if no server
    /// answers.
    ///
    /// # Cancel safety
    /// Nothing is left behind.
    pub async fn get(&self, name: impl Into<String>) -> Result<Option<LockInfo>, Error> {
        let name = name.into();
        let call = Call::new("get").on(name.as_str());
        let mut message =
            v1::GetRequest { namespace: self.namespace(), name, ..v1::GetRequest::default() };
        let mut found: Option<(v1::Lock, u64)> = None;
        for _ in 0..MAX_PAGES {
            let page = match self.get_page(&call, message.clone()).await {
                Ok(page) => page,
                // It has become free between two pages.
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            };
            let lock = page.lock.unwrap_or_default();
            match &mut found {
                None => found = Some((lock, page.revision)),
                Some((before, _)) => {
                    before.holders.extend(lock.holders);
                    before.waiters.extend(lock.waiters);
                }
            }
            message.after = page.next_after;
            if page.next_after == 0 {
                break;
            }
        }
        let lock = found.map(|(lock, revision)| LockInfo::from_wire(lock, revision));
        lock.transpose().map_err(|fault| call.failed(fault))
    }

    async fn get_page(
        &self,
        call: &Call,
        message: v1::GetRequest,
    ) -> Result<v1::GetResponse, Error> {
        let answer = self.unary(call.clone(), Repeat::Harmless, |channel, metadata: Metadata| {
            let request = metadata.request(message.clone());
            async move { LockServiceClient::new(channel).get(request).await }
        });
        answer.await
    }

    /// Lists all locks under a prefix that have a holder, in name order. An empty prefix
    /// lists all.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if no server answers.
    ///
    /// # Cancel safety
    /// Nothing is left behind.
    pub async fn list(&self, prefix: impl Into<String>) -> Result<Vec<LockInfo>, Error> {
        let prefix = prefix.into();
        let (mut locks, mut next) = (vec![], String::new());
        for _ in 0..MAX_PAGES {
            let page = self.list_page(prefix.as_str(), next).await?;
            locks.extend(page.locks);
            match page.next {
                None => return Ok(locks),
                Some(token) => next = token,
            }
        }
        let fault = Fault::new(ErrorKind::ResourceExhausted, "10000 pages, and still not the last");
        Err(Call::new("list").on(prefix).failed(fault))
    }

    /// Lists up to 1,000 locks under a prefix: those after the page that named this one as
    /// its next, or the first ones for an empty token.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    ///
    /// # Cancel safety
    /// Nothing is left behind.
    pub async fn list_page(
        &self,
        prefix: impl Into<String>,
        page_token: impl Into<String>,
    ) -> Result<Page, Error> {
        let prefix = prefix.into();
        let call = Call::new("list").on(prefix.as_str());
        let message = v1::ListRequest {
            namespace: self.namespace(),
            prefix,
            page_size: PAGE,
            page_token: page_token.into(),
        };
        let answer = self.unary(call.clone(), Repeat::Harmless, |channel, metadata: Metadata| {
            let request = metadata.request(message.clone());
            async move { LockServiceClient::new(channel).list(request).await }
        });
        let v1::ListResponse { locks, next_page_token, revision } = answer.await?;
        let locks = locks.into_iter().map(|lock| LockInfo::from_wire(lock, revision));
        let locks = locks.collect::<Result<_, _>>().map_err(|fault| call.failed(fault))?;
        let next = Some(next_page_token).filter(|token| !token.is_empty());
        Ok(Page { locks, next, revision })
    }

    /// Watches the locks under a prefix: their current state first, then every change.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if no server answers.
    ///
    /// # Cancel safety
    /// Nothing is left behind.
    pub async fn watch(&self, prefix: impl Into<String>) -> Result<LockWatch, Error> {
        let prefix = prefix.into();
        let target = prefix.clone();
        let message = v1::WatchRequest { prefix, ..v1::WatchRequest::default() };
        self.watch_for(target, message).await
    }

    /// Watches one lock, as [`watch`](Self::watch) does all under a prefix. A lock that has
    /// neither a holder nor a waiter is not among the current ones.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for a bad name, [`ErrorKind::Unavailable`] if no server
    /// answers.
    ///
    /// # Cancel safety
    /// Nothing is left behind.
    pub async fn watch_lock(&self, name: impl Into<String>) -> Result<LockWatch, Error> {
        let name = name.into();
        let target = name.clone();
        let message = v1::WatchRequest { name, ..v1::WatchRequest::default() };
        self.watch_for(target, message).await
    }

    async fn watch_for(
        &self,
        target: String,
        message: v1::WatchRequest,
    ) -> Result<LockWatch, Error> {
        let context = self.call_context().cloned();
        let trace_id = context.as_ref().and_then(Context::trace_id);
        let call = Call::new("watch").on(target).traced(trace_id);
        let message = v1::WatchRequest { namespace: self.namespace(), ..message };
        let answer = self.unary(call.clone(), Repeat::Harmless, |channel, metadata: Metadata| {
            let request = metadata.endless().request(message.clone());
            async move { LockServiceClient::new(channel).watch(request).await }
        });
        let events = Some(answer.await?);
        Ok(LockWatch { call, context, events, clock: self.clock().clone() })
    }

    /// Asks the holders of a lock to give it up, and returns those it asked. They decide: see
    /// [`Guard::yield_requested`](crate::Guard::yield_requested).
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if the lock has no holder.
    ///
    /// # Cancel safety
    /// Whether they were asked is then not known.
    pub async fn request_yield(
        &self,
        name: impl Into<String>,
        reason: impl Into<String>,
    ) -> Result<Vec<EntryInfo>, Error> {
        let name = name.into();
        let call = Call::new("request_yield").on(name.as_str());
        let (namespace, reason) = (self.namespace(), reason.into());
        let message = v1::RequestYieldRequest { namespace, name, reason };
        let answer = self.unary(call.clone(), Repeat::Harmless, |channel, metadata: Metadata| {
            let request = metadata.request(message.clone());
            async move { LockServiceClient::new(channel).request_yield(request).await }
        });
        let holders = answer.await?.holders.into_iter().map(EntryInfo::from_wire);
        holders.collect::<Result<_, _>>().map_err(|fault| call.failed(fault))
    }

    /// Removes the holder, or a waiter, with this token from a lock's queue, whichever session
    /// owns it. Returns what was removed.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if the lock has moved on, [`ErrorKind::NotFound`] if it is
    /// free. See [`Error::may_have_applied`] if the connection broke.
    ///
    /// # Cancel safety
    /// Whether it was done is then not known.
    pub async fn force_release(
        &self,
        name: impl Into<String>,
        token: FencingToken,
        reason: impl Into<String>,
    ) -> Result<EntryInfo, Error> {
        let name = name.into();
        let call = Call::new("force_release").on(name.as_str());
        LockName::parse(name.as_str()).map_err(|error| call.failed(Fault::invalid(&error)))?;
        let message = v1::ForceReleaseRequest {
            namespace: self.namespace(),
            name,
            token: token.get(),
            reason: reason.into(),
        };
        let repeat = Repeat::IfNotApplied;
        let answer = self.unary(call.clone(), repeat, |channel, metadata: Metadata| {
            let request = metadata.request(message.clone());
            async move { AdminServiceClient::new(channel).force_release(request).await }
        });
        let removed = answer.await?.removed;
        let removed =
            removed.ok_or_else(|| Fault::protocol("the server did not say what was removed"));
        removed.and_then(EntryInfo::from_wire).map_err(|fault| call.failed(fault))
    }

    /// Asks a server about itself: the one that unary calls go to.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if no server answers.
    ///
    /// # Cancel safety
    /// Nothing is left behind.
    pub async fn status(&self) -> Result<ServerStatus, Error> {
        let answer =
            self.unary(Call::new("status"), Repeat::Harmless, |channel, metadata: Metadata| {
                let request = metadata.request(v1::StatusRequest {});
                async move { AdminServiceClient::new(channel).status(request).await }
            });
        let status = answer.await?;
        let duration = |wire: Option<prost_types::Duration>| {
            wire.and_then(|wire| wire.try_into().ok()).unwrap_or_default()
        };
        Ok(ServerStatus {
            version: status.version,
            store: status.store,
            replica: status.replica,
            ready: status.ready,
            not_ready_reason: status.not_ready_reason,
            revision: status.revision,
            view_age: duration(status.view_age),
            sessions: status.sessions,
            attached_sessions: status.attached_sessions,
            locks: status.locks,
            waiters: status.waiters,
            uptime: duration(status.uptime),
            address: self.unary_address(),
        })
    }

    pub(crate) fn namespace(&self) -> String {
        self.shared().namespace.to_string()
    }
}

impl LockWatch {
    /// The next event. After an error, and after the end of its context, there are no more:
    /// watch again to start from the current state.
    ///
    /// # Cancel safety
    /// No event is lost.
    pub async fn next(&mut self) -> Option<Result<LockEvent, Error>> {
        loop {
            let fault = match self.message().await? {
                Ok(v1::WatchResponse { event: None, .. }) => continue,
                Ok(v1::WatchResponse { event: Some(event), revision }) => {
                    match to_event(event, revision) {
                        Ok(Some(event)) => return Some(Ok(event)),
                        Ok(None) => continue,
                        Err(fault) => fault,
                    }
                }
                Err(fault) => fault,
            };
            self.events = None;
            return Some(Err(self.call.failed(fault)));
        }
    }

    async fn message(&mut self) -> Option<Result<v1::WatchResponse, Fault>> {
        let events = self.events.as_mut()?;
        let silence = self.clock.sleep_until(self.clock.now() + SILENCE);
        let message = async {
            tokio::select! {
                message = events.message() => message,
                () = silence => {
                    let silent = format!("the server was silent for {SILENCE:?}");
                    Err(tonic::Status::unavailable(silent))
                }
            }
        };
        let message = match &self.context {
            None => message.await,
            Some(context) => context.run(message).await.ok()?,
        };
        Some(match message {
            Ok(Some(message)) => Ok(message),
            Ok(None) => Err(Fault::unavailable("the server ended the watch")),
            Err(status) => Err(Fault::from_status(status)),
        })
    }
}

/// `None` for a sign of life.
fn to_event(event: Event, revision: u64) -> Result<Option<LockEvent>, Fault> {
    Ok(Some(match event {
        Event::Changed(lock) => LockEvent::Changed(LockInfo::from_wire(lock, revision)?),
        Event::Freed(v1::LockRef { namespace, name }) => LockEvent::Freed { namespace, name },
        Event::SnapshotEnd(v1::SnapshotEnd {}) => LockEvent::SnapshotEnd,
        Event::Confirmed(v1::Confirmed {}) => return Ok(None),
    }))
}
