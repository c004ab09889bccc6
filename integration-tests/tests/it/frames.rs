//! Frames on the session stream, as a client in any language may send them.

use std::time::Duration;

use lockd_proto::{
    SessionId,
    v1::{
        self, AttachRequest, AttachResponse, ClientMessage, client_message::Message as Ask,
        server_message::Message as Told,
    },
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::world::{Raw, World, acquire_of, both_stores, reason, token};

both_stores!(
    a_session_opens_acquires_and_ends_in_frames,
    an_open_that_is_sent_again_finds_its_own_session,
    a_session_opened_by_its_client_is_proved_by_its_secret,
);

struct Wire {
    up: mpsc::Sender<AttachRequest>,
    down: Streaming<AttachResponse>,
    ready: std::collections::VecDeque<Told>,
}

impl Wire {
    async fn attach(raw: &mut Raw, first: Vec<Ask>) -> Result<Self, tonic::Status> {
        let (up, frames) = mpsc::channel(8);
        up.send(frame(first)).await.unwrap();
        let down = raw.sessions.attach(ReceiverStream::new(frames)).await?.into_inner();
        Ok(Self { up, down, ready: std::collections::VecDeque::new() })
    }

    async fn send(&self, asks: Vec<Ask>) {
        self.up.send(frame(asks)).await.unwrap();
    }

    async fn next(&mut self) -> Told {
        while self.ready.is_empty() {
            let next = tokio::time::timeout(Duration::from_secs(20), self.down.message());
            let frame = next.await.expect("an answer in time").unwrap().expect("more frames");
            self.ready.extend(frame.messages.into_iter().filter_map(|message| message.message));
        }
        self.ready.pop_front().unwrap()
    }

    async fn attached(&mut self) -> v1::Attached {
        match self.next().await {
            Told::Attached(attached) => attached,
            other => panic!("attached first, not {other:?}"),
        }
    }

    /// The token of the next grant.
    async fn granted(&mut self) -> u64 {
        match self.next().await {
            Told::Granted(granted) => granted.grant.unwrap().token,
            other => panic!("granted, not {other:?}"),
        }
    }
}

fn frame(asks: Vec<Ask>) -> AttachRequest {
    let message = |ask| ClientMessage { message: Some(ask) };
    AttachRequest { messages: asks.into_iter().map(message).collect() }
}

fn credential(stream: u64) -> v1::SessionCredential {
    let (session_id, secret) = (SessionId::random().to_string(), "5e".repeat(32));
    v1::SessionCredential { session_id, secret, stream }
}

fn open(session: &v1::SessionCredential) -> v1::OpenSessionRequest {
    let ttl = Duration::from_secs(30).try_into().ok();
    v1::OpenSessionRequest { ttl, client: None, session: Some(session.clone()) }
}

async fn a_session_opens_acquires_and_ends_in_frames(world: World) {
    let mut raw = world.raw().await;
    let session = credential(1);
    let (a, b) = (acquire_of("frames/a", 1), acquire_of("frames/b", 2));
    let first = vec![Ask::Open(open(&session)), Ask::Acquire(a), Ask::Acquire(b)];
    let mut wire = Wire::attach(&mut raw, first).await.unwrap();
    let attached = wire.attached().await.session.unwrap();
    assert_eq!(attached.session_id, session.session_id);
    for _ in 0..2 {
        assert!(wire.granted().await > 0);
    }
    let release = |request: u8| Ask::Release(v1::Release { request_id: vec![request; 16] });
    wire.send(vec![release(1), release(2), Ask::Close(v1::Close {})]).await;
    for _ in 0..2 {
        let Told::Released(released) = wire.next().await else { panic!("releases come first") };
        assert_eq!(released.outcome(), v1::ReleaseOutcome::Released);
    }
    assert!(matches!(wire.next().await, Told::Ended(_)));
}

async fn an_open_that_is_sent_again_finds_its_own_session(world: World) {
    let mut raw = world.raw().await;
    let session = credential(1);
    let asks = |session| vec![Ask::Open(open(session)), Ask::Acquire(acquire_of("again", 1))];
    let mut first = Wire::attach(&mut raw, asks(&session)).await.unwrap();
    first.attached().await;
    let before = first.granted().await;
    let again = v1::SessionCredential { stream: 2, ..session.clone() };
    let mut second = Wire::attach(&mut raw, asks(&again)).await.unwrap();
    let entries = second.attached().await.entries;
    assert_eq!(entries.len(), 1);
    assert_eq!(second.granted().await, before, "the entry that the first open made");
    assert!(matches!(first.next().await, Told::GoAway(_)), "its stream is the later one");
}

async fn a_session_opened_by_its_client_is_proved_by_its_secret(world: World) {
    let mut raw = world.raw().await;
    let session = credential(0);
    for _ in 0..2 {
        let opened = raw.sessions.open_session(open(&session)).await.unwrap().into_inner();
        assert_eq!(opened.session, Some(session.clone()), "an open can be sent again");
    }
    assert!(token(raw.acquire(&session, acquire_of("own", 1)).await.unwrap()) > 0);
    let wrong = v1::SessionCredential { secret: "00".repeat(32), ..session.clone() };
    let short = v1::SessionCredential { secret: "00".repeat(31), ..session.clone() };
    let no_hex = v1::SessionCredential { secret: "xy".repeat(32), ..session.clone() };
    let id = v1::SessionCredential { session_id: "1".repeat(31), ..session };
    for (session, expected) in [
        (wrong, "SECRET_MISMATCH"),
        (short, "REQUEST_INVALID"),
        (no_hex, "REQUEST_INVALID"),
        (id, "REQUEST_INVALID"),
    ] {
        let status = raw.sessions.open_session(open(&session)).await.unwrap_err();
        assert_eq!(reason(&status), expected, "{status}");
        let status = Wire::attach(&mut raw, vec![Ask::Open(open(&session))]).await.err().unwrap();
        assert_eq!(reason(&status), expected, "{status}");
    }
}
