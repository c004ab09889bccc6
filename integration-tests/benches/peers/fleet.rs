//! Very many sessions in one process, as a client in any language may have them: a stream each, over
//! connections that they share, with keepalives as often as lockd's own client sends them.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt as _, stream};
use integration_tests::eventually;
use lockd_proto::v1::{
    self, AttachRequest, AttachResponse, ClientMessage, client_message::Message as Ask,
    server_message::Message as Answer, session_service_client::SessionServiceClient,
};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Streaming,
    transport::{Channel, Endpoint},
};

/// How many sessions are opened at a time.
const OPENING: usize = 256;

/// Frames that may wait for a connection.
const FRAMES: usize = 4;

/// Pairs in a frame, which may have 1,024 messages.
const FRAME_PAIRS: usize = 500;

/// How long sessions and locks may take to come.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the sessions of a fleet have been answered.
#[derive(Default)]
pub(crate) struct Counts {
    attached: AtomicUsize,
    granted: AtomicUsize,
    released: AtomicUsize,
    /// Sessions that have ended.
    lost: AtomicUsize,
}

/// Sessions that live as long as this.
pub(crate) struct Fleet {
    ups: Vec<mpsc::Sender<AttachRequest>>,
    counts: Arc<Counts>,
    _tasks: JoinSet<()>,
}

/// How many sessions a fleet has, over how many connections, and their TTL.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) sessions: usize,
    pub(crate) connections: usize,
    pub(crate) ttl: Duration,
}

impl Fleet {
    /// Opens its sessions.
    pub(crate) async fn open(url: &str, size: Size) -> Self {
        let mut channels = Vec::new();
        for _ in 0..size.connections {
            let endpoint = Endpoint::from_shared(url.to_owned()).unwrap().tcp_nodelay(true);
            channels.push(endpoint.connect().await.unwrap());
        }
        let counts = Arc::new(Counts::default());
        let opening = (0..size.sessions).zip(channels.iter().cycle());
        let opening = opening.map(|(_, channel)| Session::open(channel, size.ttl));
        let mut opened = stream::iter(opening).buffer_unordered(OPENING);
        let (mut ups, mut tasks) = (Vec::new(), JoinSet::new());
        while let Some(session) = opened.next().await {
            // Keepalives of a fleet are spread over their interval, in the golden ratio.
            let phase = (ups.len() as f64 * 0.618_034).fract();
            ups.push(session.up.clone());
            let counts = Arc::clone(&counts);
            tasks.spawn(async move {
                session.keep(phase, &counts).await;
                counts.lost.fetch_add(1, Ordering::Relaxed);
            });
        }
        let fleet = Self { ups, counts, _tasks: tasks };
        fleet.reaches(size.sessions, |counts| &counts.attached).await;
        fleet
    }

    /// Has each of these sessions hold so many more locks.
    pub(crate) async fn hold(&self, sessions: Range<usize>, each: usize) {
        let before = self.counts.granted.load(Ordering::Relaxed);
        for (n, up) in self.ups[sessions.clone()].iter().enumerate() {
            let name = || format!("held/{}", uuid::Uuid::new_v4().simple());
            up.send(frame((0..each).map(|_| acquire(name())).collect())).await.unwrap();
            // What is under way is bounded.
            let asked = n.saturating_sub(OPENING / 4) * each;
            self.reaches(before + asked, |counts| &counts.granted).await;
        }
        self.reaches(before + sessions.len() * each, |counts| &counts.granted).await;
    }

    /// Acquires and releases locks over the first session, in so many frames.
    pub(crate) async fn pairs(&self, frames: usize) {
        let before = self.counts.released.load(Ordering::Relaxed);
        let pair = |n| {
            let acquire = acquire(format!("pairs/{n}"));
            let Ask::Acquire(v1::Acquire { request_id, .. }) = &acquire else { unreachable!() };
            let release = Ask::Release(v1::Release { request_id: request_id.clone() });
            [acquire, release]
        };
        for _ in 0..frames {
            self.ups[0].send(frame((0..FRAME_PAIRS).flat_map(pair).collect())).await.unwrap();
        }
        self.reaches(before + frames * FRAME_PAIRS, |counts| &counts.released).await;
    }

    /// How many sessions were lost.
    pub(crate) fn lost(&self) -> usize {
        self.counts.lost.load(Ordering::Relaxed)
    }

    async fn reaches(&self, count: usize, of: fn(&Counts) -> &AtomicUsize) {
        if of(&self.counts).load(Ordering::Relaxed) >= count {
            return;
        }
        eventually(&format!("{count} sessions or locks are there"), PATIENCE, async || {
            let now = of(&self.counts).load(Ordering::Relaxed);
            if now >= count { Ok(()) } else { Err(now) }
        })
        .await;
    }
}

/// A session and its stream.
struct Session {
    up: mpsc::Sender<AttachRequest>,
    down: Streaming<AttachResponse>,
    ttl: Duration,
}

impl Session {
    /// Opens a session. A replica that has lost sight of its store for a moment is asked again.
    async fn open(channel: &Channel, ttl: Duration) -> Self {
        eventually("a session opens", PATIENCE, async || {
            let (up, frames) = mpsc::channel(FRAMES);
            let open = v1::OpenSessionRequest { ttl: ttl.try_into().ok(), ..Default::default() };
            up.send(frame(vec![Ask::Open(open)])).await.unwrap();
            let mut sessions = SessionServiceClient::new(channel.clone());
            let attached = sessions.attach(ReceiverStream::new(frames)).await;
            attached.map(|attached| Self { up, down: attached.into_inner(), ttl })
        })
        .await
    }

    /// Keeps it alive until it ends.
    async fn keep(mut self, phase: f64, counts: &Counts) {
        // As lockd's client does.
        let interval = self.ttl / 5;
        let mut due = Instant::now() + interval.mul_f64(phase);
        for sequence in 1.. {
            loop {
                tokio::select! {
                    () = sleep_until(due) => break,
                    frame = self.down.message() => match frame {
                        Ok(Some(frame)) if counts.note(&frame) => {}
                        Ok(_) | Err(_) => return,
                    },
                }
            }
            due += interval;
            let keepalive = Ask::KeepAlive(v1::KeepAlive { sequence });
            if self.up.send(frame(vec![keepalive])).await.is_err() {
                return;
            }
        }
    }
}

impl Counts {
    /// Counts the answers in a frame. False if the session has ended.
    fn note(&self, frame: &AttachResponse) -> bool {
        for message in &frame.messages {
            let count = match &message.message {
                Some(Answer::Attached(_)) => &self.attached,
                Some(Answer::Granted(_)) => &self.granted,
                Some(Answer::Released(_)) => &self.released,
                Some(Answer::Queued(_) | Answer::KeepAliveAck(_)) => continue,
                _ => return false,
            };
            count.fetch_add(1, Ordering::Relaxed);
        }
        true
    }
}

fn acquire(name: String) -> Ask {
    let request_id = uuid::Uuid::new_v4().into_bytes().to_vec();
    Ask::Acquire(v1::Acquire { request_id, name, ..v1::Acquire::default() })
}

fn frame(asks: Vec<Ask>) -> AttachRequest {
    let message = |ask| ClientMessage { message: Some(ask) };
    AttachRequest { messages: asks.into_iter().map(message).collect() }
}
