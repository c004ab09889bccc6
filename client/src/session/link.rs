//! A stream to one server: opening it, and its events.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use lockd_proto::{
    clock::{Clock, Instant},
    v1::{
        self, AttachRequest, attach_request::Message as Ask, attach_response::Message as Told,
        session_service_client::SessionServiceClient,
    },
};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{Shared, outbox::Outbox};
use crate::error::{ErrorKind, Fault};

/// Messages between the session's task and the transport.
const WINDOW: usize = 64;

/// A stream on which the session is attached.
#[derive(Debug)]
pub(super) struct Link {
    up: mpsc::Sender<AttachRequest>,
    down: Streaming<v1::AttachResponse>,
    /// Whose turn it was.
    pub(super) turn: usize,
}

/// A stream that has just been attached.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) link: Link,
    /// When the first message was sent, from which the lease counts.
    pub(super) sent: Instant,
    pub(super) attached: v1::Attached,
}

/// Whether there is a stream.
pub(super) enum LinkState {
    /// There is none, and none is tried before this moment.
    Down { not_before: Instant },
    /// One is being opened.
    Opening(BoxFuture<'static, Result<Opened, Fault>>),
    /// There is one.
    Up(Box<Link>),
}

/// What happened on the stream.
pub(super) enum LinkEvent {
    Opened(Result<Opened, Fault>),
    Told(Told),
    Broken(Fault),
    Writable,
}

impl LinkState {
    /// The next event.
    ///
    /// # Cancel safety
    /// No event is lost: an opening goes on at the next call, as does a stream.
    pub(super) async fn event(&mut self, outbox: &Outbox) -> LinkEvent {
        match self {
            Self::Down { .. } => std::future::pending().await,
            Self::Opening(opening) => LinkEvent::Opened(opening.await),
            Self::Up(link) => link.event(!outbox.is_empty()).await,
        }
    }
}

impl Link {
    async fn event(&mut self, has_messages: bool) -> LinkEvent {
        tokio::select! {
            told = self.down.message() => match told {
                Ok(Some(v1::AttachResponse { message: Some(told) })) => LinkEvent::Told(told),
                Ok(Some(v1::AttachResponse { message: None })) => {
                    LinkEvent::Broken(Fault::protocol("the server sent an unknown message"))
                }
                Ok(None) => LinkEvent::Broken(Fault::unavailable("the server ended the stream")),
                Err(status) => LinkEvent::Broken(Fault::from_status(status)),
            },
            _ = self.up.reserve(), if has_messages => LinkEvent::Writable,
        }
    }

    /// Writes as much as the transport takes. A stream that is closed says so when it is
    /// read.
    pub(super) fn write(&self, outbox: &mut Outbox) {
        while let Some(message) = outbox.pop() {
            match self.up.try_send(AttachRequest { message: Some(message) }) {
                Ok(()) => {}
                Err(TrySendError::Closed(_)) => return,
                Err(TrySendError::Full(AttachRequest { message })) => {
                    if let Some(message) = message {
                        outbox.put_back(message);
                    }
                    return;
                }
            }
        }
    }
}

/// Opens a stream at the address whose turn it is. The connection is a new one: an old one
/// may be dead without knowing it.
pub(super) async fn open(
    shared: Arc<Shared>,
    turn: usize,
    hello: Ask,
    timeout: Duration,
) -> Result<Opened, Fault> {
    let address = shared.endpoints.name(turn).to_owned();
    let attempt = attach(shared, turn, hello);
    let opened = match tokio::time::timeout(timeout, attempt).await {
        Ok(opened) => opened,
        Err(_) => Err(Fault::unavailable(format!("no answer within {timeout:?}"))),
    };
    opened.map_err(|mut fault| {
        fault.message = format!("{address}: {}", fault.message);
        fault
    })
}

async fn attach(shared: Arc<Shared>, turn: usize, hello: Ask) -> Result<Opened, Fault> {
    let channel = shared.endpoints.dial(turn).await?;
    let (up, requests) = mpsc::channel(WINDOW);
    let sent = now_and_queue(&shared.clock, &up, hello)?;
    let mut client = SessionServiceClient::new(channel);
    let response = client.attach(ReceiverStream::new(requests)).await;
    let mut down = response.map_err(Fault::from_status)?.into_inner();
    let first = down.message().await.map_err(Fault::from_status)?;
    match first.and_then(|first| first.message) {
        Some(Told::Attached(attached)) => {
            Ok(Opened { link: Link { up, down, turn }, sent, attached })
        }
        Some(Told::GoAway(go_away)) => Err(Fault::from_wire(go_away.failure)),
        Some(Told::Ended(_)) => {
            let reason = Some(v1::Reason::SessionNotFound);
            Err(Fault { reason, ..Fault::new(ErrorKind::NotFound, "the session has ended") })
        }
        Some(
            Told::KeepAliveAck(_)
            | Told::Queued(_)
            | Told::Granted(_)
            | Told::Refused(_)
            | Told::Failed(_)
            | Told::Released(_)
            | Told::Lost(_)
            | Told::Updated(_)
            | Told::YieldRequested(_),
        ) => Err(Fault::protocol("the server's first message was not Attached")),
        None => Err(Fault::unavailable("the server ended the stream")),
    }
}

fn now_and_queue(
    clock: &Clock,
    up: &mpsc::Sender<AttachRequest>,
    hello: Ask,
) -> Result<Instant, Fault> {
    let sent = clock.now();
    match up.try_send(AttachRequest { message: Some(hello) }) {
        Ok(()) => Ok(sent),
        Err(_) => Err(Fault::unavailable("the stream is closed")),
    }
}
