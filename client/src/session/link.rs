//! A stream to one server: connecting, attaching, and its frames.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use lockd_proto::{
    clock::Instant,
    v1::{
        self, AttachRequest, AttachResponse, ServerMessage, server_message::Message as Told,
        session_service_client::SessionServiceClient,
    },
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

use super::{Shared, outbox::Outbox};
use crate::error::{ErrorKind, Fault};

/// Frames between the session's task and the transport. Few: what does not fit stays in the
/// outbox, where it joins the next frame.
const WINDOW: usize = 8;

/// A stream on which the session is attached.
#[derive(Debug)]
pub(super) struct Link {
    up: mpsc::Sender<AttachRequest>,
    down: Streaming<AttachResponse>,
    /// Whose turn it was.
    pub(super) turn: usize,
}

/// A stream that has just been attached.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) link: Link,
    /// When the first frame was sent, from which the lease counts.
    pub(super) sent: Instant,
    pub(super) attached: v1::Attached,
    /// What the server's first frame holds behind `attached`.
    pub(super) rest: AttachResponse,
}

/// Whether there is a stream.
pub(super) enum LinkState {
    /// There is none, and none is tried before this moment.
    Down { not_before: Instant },
    /// A connection is being made; the session has to be attached by this moment.
    Connecting { by: Instant, connecting: BoxFuture<'static, Result<Channel, Fault>> },
    /// The first frame was sent.
    Attaching(BoxFuture<'static, Result<Opened, Fault>>),
    /// There is one.
    Up(Box<Link>),
}

/// What happened on the stream.
pub(super) enum LinkEvent {
    Connected(Result<Channel, Fault>),
    Opened(Result<Box<Opened>, Fault>),
    Frame(AttachResponse),
    Broken(Fault),
    Writable,
}

/// What opening a stream needs.
#[derive(Debug)]
pub(super) struct Attach {
    pub(super) channel: Channel,
    /// Whose turn it is.
    pub(super) turn: usize,
    /// Opens or resumes the session, and asks for all that is ready.
    pub(super) first: AttachRequest,
    pub(super) sent: Instant,
    pub(super) timeout: Duration,
}

impl LinkState {
    /// The next event.
    ///
    /// # Cancel safety
    /// No event is lost: an opening goes on at the next call, as does a stream.
    pub(super) async fn event(&mut self, outbox: &Outbox) -> LinkEvent {
        match self {
            Self::Down { .. } => std::future::pending().await,
            Self::Connecting { connecting, .. } => LinkEvent::Connected(connecting.await),
            Self::Attaching(attaching) => LinkEvent::Opened(attaching.await.map(Box::new)),
            Self::Up(link) => link.event(!outbox.is_empty()).await,
        }
    }

    /// Sends what is ready, as far as the transport takes it.
    pub(super) fn flush(&self, outbox: &mut Outbox) {
        if let Self::Up(link) = self {
            link.flush(outbox);
        }
    }
}

impl Link {
    async fn event(&mut self, has_messages: bool) -> LinkEvent {
        tokio::select! {
            frame = self.down.message() => match frame {
                Ok(Some(frame)) => LinkEvent::Frame(frame),
                Ok(None) => LinkEvent::Broken(Fault::unavailable("the server ended the stream")),
                Err(status) => LinkEvent::Broken(Fault::from_status(status)),
            },
            _ = self.up.reserve(), if has_messages => LinkEvent::Writable,
        }
    }

    /// A stream that is closed reports it when it is read.
    fn flush(&self, outbox: &mut Outbox) {
        while !outbox.is_empty() {
            let Ok(permit) = self.up.try_reserve() else { return };
            permit.send(outbox.frame());
        }
    }
}

/// Connects to the address whose turn it is. The connection is a new one: an old one may be dead
/// without knowing it.
pub(super) async fn connect(
    shared: Arc<Shared>,
    turn: usize,
    timeout: Duration,
) -> Result<Channel, Fault> {
    within(timeout, shared.endpoints.dial(turn))
        .await
        .map_err(|fault| fault.at(shared.endpoints.name(turn)))
}

/// Opens a stream on a connection, and attaches the session to it.
pub(super) async fn attach(shared: Arc<Shared>, attach: Attach) -> Result<Opened, Fault> {
    let Attach { turn, timeout, .. } = attach;
    within(timeout, attached(attach)).await.map_err(|fault| fault.at(shared.endpoints.name(turn)))
}

async fn within<T>(
    timeout: Duration,
    attempt: impl Future<Output = Result<T, Fault>>,
) -> Result<T, Fault> {
    match tokio::time::timeout(timeout, attempt).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Fault::unavailable(format!("no answer within {timeout:?}"))),
    }
}

async fn attached(attach: Attach) -> Result<Opened, Fault> {
    let Attach { channel, turn, first, sent, .. } = attach;
    let (up, requests) = mpsc::channel(WINDOW);
    if up.try_send(first).is_err() {
        return Err(Fault::unavailable("the stream is closed"));
    }
    let mut client = SessionServiceClient::new(channel);
    let response = client.attach(ReceiverStream::new(requests)).await;
    let mut down = response.map_err(Fault::from_status)?.into_inner();
    let frame = down.message().await.map_err(Fault::from_status)?;
    let (attached, rest) = greeting(frame)?;
    Ok(Opened { link: Link { up, down, turn }, sent, attached, rest })
}

/// Takes the first message of the server's first frame off.
fn greeting(frame: Option<AttachResponse>) -> Result<(v1::Attached, AttachResponse), Fault> {
    let ended = || Fault::unavailable("the server ended the stream");
    let AttachResponse { messages, durable } = frame.ok_or_else(ended)?;
    let mut messages = messages.into_iter();
    match messages.next() {
        Some(ServerMessage { message: Some(Told::Attached(attached)) }) => {
            Ok((attached, AttachResponse { messages: messages.collect(), durable }))
        }
        Some(ServerMessage { message: Some(Told::GoAway(go_away)) }) => {
            Err(Fault::from_wire(go_away.failure))
        }
        Some(ServerMessage { message: Some(Told::Ended(_)) }) => {
            let reason = Some(v1::Reason::SessionNotFound);
            Err(Fault { reason, ..Fault::new(ErrorKind::NotFound, "the session has ended") })
        }
        Some(ServerMessage {
            message:
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
                )
                | None,
        })
        | None => Err(Fault::protocol("the server's first message was not Attached")),
    }
}
