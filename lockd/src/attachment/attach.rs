//! How a stream begins: with a new session, or with one that was open before.

use std::{sync::Arc, time::Duration};

use futures::stream::FuturesUnordered;
use lockd_proto::v1::ClientInfo;
use tokio::sync::mpsc;

use super::{Attached, Attachment, Deadlines, OUTPUTS, Output};
use crate::{
    engine::Engine,
    error::Error,
    record::Mark,
    requests::{Owner, Requests},
    sessions::{Credential, Stream},
    view::Entry,
};

/// How many events a session has that wait for its stream's task, for each request that it may
/// have open. More than those can have at once, so that only a task that is held up by its
/// client can fall behind.
const EVENTS_PER_ENTRY: usize = 2;

impl Attachment {
    /// Opens a session on a new stream. An open that is sent again goes on with the session that
    /// the first one made.
    ///
    /// # Errors
    /// As [`Sessions::open`](crate::sessions::Sessions::open); and another client's session has
    /// this id.
    pub async fn open(
        engine: Engine,
        ttl: Option<Duration>,
        client: ClientInfo,
        own: Option<Credential>,
    ) -> Result<(Self, mpsc::Receiver<Output>), Error> {
        let opened = engine.sessions.open(ttl, client, Stream::Here, own.clone()).await?;
        let Some(opened) = opened else {
            let credential = own.ok_or(Error::Protocol("a session of this id exists"))?;
            return Self::resume(engine, &credential).await;
        };
        let attached = Attached {
            session: opened.session,
            secret: Some(opened.secret),
            replica: engine.sessions.replica(),
            entries: vec![],
        };
        Ok(Self::begin(engine, attached).await)
    }

    /// Goes on with a session on a new stream: takes it over from whichever stream it had,
    /// renews its lease, and finds all entries that were ever acknowledged.
    ///
    /// # Errors
    /// The session is gone, the secret wrong, or the store unavailable.
    pub async fn resume(
        engine: Engine,
        credential: &Credential,
    ) -> Result<(Self, mpsc::Receiver<Output>), Error> {
        let proven = engine.sessions.prove(credential).await?;
        engine.sessions.keep_alive(proven.id, proven.lease).await?;
        let session = engine.sessions.attach(&proven, Stream::Here).await?;
        // Whatever was acknowledged on an earlier stream was written before this revision.
        engine.catch_up(session.modified).await?;
        let replica = engine.sessions.replica();
        let attached = Attached { session, secret: None, entries: vec![], replica };
        let view = engine.view.clone();
        let begun = Self::begin(engine, attached).await;
        // What happened before the subscription was not heard of.
        match view.session(begun.0.session.id) {
            None => Err(Error::SessionNotFound(credential.session)),
            Some(now) if now.modified > begun.0.session.modified => Err(Error::Superseded),
            Some(_) => Ok(begun),
        }
    }

    async fn begin(engine: Engine, mut attached: Attached) -> (Self, mpsc::Receiver<Output>) {
        let session = attached.session.clone();
        // First the events, then the entries: what changes in between is heard of twice.
        let events =
            engine.view.subscribe(session.id, EVENTS_PER_ENTRY * engine.limits.entries_per_session);
        let owner = Owner { session: session.id, lease: session.lease };
        let mut requests = Requests::new(owner, engine.limits);
        attached.entries = engine.view.entries_of(session.id);
        attached.entries.retain(|(entry, _)| entry.record.mark() != Mark::Gone);
        let adopt = |(entry, _): &(Arc<Entry>, bool)| requests.adopt(entry, &engine.view);
        let adopted = attached.entries.iter().flat_map(adopt).collect();
        let (outputs, receiver) = mpsc::channel(OUTPUTS);
        // The channel is new and empty, so this does not wait.
        drop(outputs.send(Output::Attached(Box::new(attached))).await);
        let heard = engine.clock.now();
        let attachment = Self {
            engine,
            session,
            requests,
            adopted,
            outputs,
            events,
            begun: FuturesUnordered::new(),
            deadlines: Deadlines::default(),
            heard,
        };
        (attachment, receiver)
    }
}
