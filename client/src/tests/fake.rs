//! Scripted servers: real tonic, over pipes in memory, so that paused time moves only when
//! every task is idle.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hyper_util::rt::TokioIo;
use lockd_proto::{
    RequestId,
    clock::Clock,
    v1::{
        self, AttachRequest, AttachResponse, ServerMessage,
        client_message::Message as Ask,
        server_message::Message as Told,
        session_service_server::{SessionService, SessionServiceServer},
    },
};
use tokio::{io::DuplexStream, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming, transport::Server};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::{Client, ClientBuilder, endpoints::Dial, error::Fault};

/// Servers by the host of their address.
pub(super) struct Net {
    servers: HashMap<String, FakeServer>,
    pipes: HashMap<String, mpsc::Sender<Result<DuplexStream, std::io::Error>>>,
    refused: Arc<Mutex<HashSet<String>>>,
    addresses: String,
}

/// One server: hands the streams that clients open to the test.
pub(super) struct FakeServer {
    streams: mpsc::Receiver<Stream>,
    opens: Arc<Mutex<Vec<v1::OpenSessionRequest>>>,
}

/// A stream that a client has opened. Keepalives are answered until the stream is muted.
pub(super) struct Stream {
    asked: mpsc::Receiver<Ask>,
    down: mpsc::Sender<Result<AttachResponse, Status>>,
    muted: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
}

/// What a client has sent.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    /// How many messages each frame had, keepalives included.
    pub(super) frames: Vec<usize>,
    /// What the session was opened or resumed with.
    pub(super) session: v1::SessionCredential,
    /// What the client named as open when it resumed.
    pub(super) open: Vec<Vec<u8>>,
    /// The acquire that was asked for last.
    pub(super) acquired: Vec<u8>,
}

struct Service {
    streams: mpsc::Sender<Stream>,
    opens: Arc<Mutex<Vec<v1::OpenSessionRequest>>>,
    tasks: TaskTracker,
}

impl Net {
    pub(super) fn of(hosts: &[&str]) -> Self {
        let mut net = Self {
            servers: HashMap::new(),
            pipes: HashMap::new(),
            refused: Arc::default(),
            addresses: hosts.join(","),
        };
        for host in hosts {
            let (pipe, incoming) = mpsc::channel(16);
            let (streams, accepted) = mpsc::channel(16);
            let tasks = TaskTracker::new();
            let opens = Arc::default();
            let service = Service { streams, opens: Arc::clone(&opens), tasks: tasks.clone() };
            let service = SessionServiceServer::new(service);
            let serving = Server::builder()
                .add_service(service)
                .serve_with_incoming(ReceiverStream::new(incoming));
            tasks.spawn(serving);
            net.servers.insert((*host).to_owned(), FakeServer { streams: accepted, opens });
            net.pipes.insert((*host).to_owned(), pipe);
        }
        net
    }

    pub(super) fn builder(&self, ttl: Duration) -> ClientBuilder {
        Client::builder()
            .addrs(self.addresses.as_str())
            .name("test")
            .ttl(ttl)
            .clock(Clock::tokio())
            .dial(self.dial())
    }

    pub(super) fn client(&self, ttl: Duration) -> Client {
        self.builder(ttl).build().unwrap()
    }

    pub(super) fn at(&mut self, host: &str) -> &mut FakeServer {
        self.servers.get_mut(host).unwrap()
    }

    /// From now on this host refuses connections.
    pub(super) fn refuse(&self, host: &str) {
        self.refused.lock().unwrap().insert(host.to_owned());
    }

    /// The server at this host is back.
    pub(super) fn listen(&self, host: &str) {
        self.refused.lock().unwrap().remove(host);
    }

    fn dial(&self) -> Dial {
        let (pipes, refused) = (self.pipes.clone(), Arc::clone(&self.refused));
        Arc::new(move |endpoint| {
            let host = endpoint.uri().host().unwrap().to_owned();
            let pipe = pipes.get(&host).unwrap().clone();
            let refused = refused.lock().unwrap().contains(&host);
            Box::pin(async move {
                if refused {
                    return Err(Fault::unavailable("connection refused"));
                }
                let connector = tower::service_fn(move |_| {
                    let pipe = pipe.clone();
                    async move {
                        let (near, far) = tokio::io::duplex(1 << 16);
                        pipe.send(Ok(far)).await.map_err(std::io::Error::other)?;
                        Ok::<_, std::io::Error>(TokioIo::new(near))
                    }
                });
                endpoint.connect_with_connector(connector).await.map_err(Fault::connection)
            })
        })
    }
}

impl FakeServer {
    /// The calls that have asked to open a session. None is answered.
    pub(super) fn opens(&self) -> Vec<v1::OpenSessionRequest> {
        self.opens.lock().unwrap().clone()
    }

    /// The next stream that a client opens.
    pub(super) async fn accept(&mut self) -> Stream {
        within_patience(self.streams.recv()).await.unwrap()
    }

    /// The next stream, which opens a session that is granted.
    pub(super) async fn attach(&mut self, ttl: Duration) -> Stream {
        let mut stream = self.accept().await;
        let hello = stream.next().await;
        assert!(matches!(hello, Ask::Open(_)), "{hello:?}");
        stream.attached(ttl, vec![]).await;
        stream
    }

    /// The next stream, which resumes a session that has these entries.
    pub(super) async fn resume(&mut self, entries: Vec<v1::AttachedEntry>) -> Stream {
        let mut stream = self.accept().await;
        match stream.next().await {
            Ask::Resume(v1::Resume { session: Some(_), .. }) => {}
            other => panic!("expected a resume, got {other:?}"),
        }
        stream.attached(super::TTL, entries).await;
        stream
    }
}

impl Stream {
    /// What the client asks next, keepalives apart.
    pub(super) async fn next(&mut self) -> Ask {
        within_patience(self.asked.recv()).await.expect("the client closed the stream")
    }

    /// Asserts that nothing is asked within this time.
    pub(super) async fn stays_silent(&mut self, time: Duration) {
        let asked = tokio::time::timeout(time, self.asked.recv()).await;
        assert!(asked.is_err(), "{asked:?}");
    }

    pub(super) async fn expect_acquire(&mut self) -> v1::Acquire {
        match self.next().await {
            Ask::Acquire(acquire) => acquire,
            other => panic!("expected an acquire, got {other:?}"),
        }
    }

    pub(super) async fn expect_cancel(&mut self) -> Vec<u8> {
        match self.next().await {
            Ask::Cancel(cancel) => cancel.request_id,
            other => panic!("expected a cancel, got {other:?}"),
        }
    }

    pub(super) async fn expect_release(&mut self) -> Vec<u8> {
        match self.next().await {
            Ask::Release(release) => release.request_id,
            other => panic!("expected a release, got {other:?}"),
        }
    }

    pub(super) async fn expect_close(&mut self) {
        let asked = self.next().await;
        assert!(matches!(asked, Ask::Close(_)), "{asked:?}");
    }

    /// Keepalives are not answered any more.
    pub(super) fn mute(&self) {
        self.muted.store(true, Ordering::SeqCst);
    }

    pub(super) async fn tell(&self, told: Told) {
        self.tell_all([told], 0).await;
    }

    /// One frame.
    pub(super) async fn tell_all(&self, told: impl IntoIterator<Item = Told>, durable: u64) {
        self.down.send(Ok(frame(told, durable))).await.unwrap();
    }

    /// What the client has sent on this stream.
    pub(super) fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }

    pub(super) async fn attached(&self, ttl: Duration, entries: Vec<v1::AttachedEntry>) {
        self.tell(self.greeting(ttl, entries)).await;
    }

    pub(super) fn greeting(&self, ttl: Duration, entries: Vec<v1::AttachedEntry>) -> Told {
        Told::Attached(v1::Attached {
            session: Some(self.seen().session),
            ttl: ttl.try_into().ok(),
            entries,
            replica: "fake".to_owned(),
        })
    }

    /// Ends the stream as a gRPC server does.
    pub(super) async fn fail(self, reason: v1::Reason, message: &str) {
        let details =
            ErrorDetails::with_error_info(reason.name(), lockd_proto::ERROR_DOMAIN, HashMap::new());
        let status = Status::with_error_details(tonic::Code::Aborted, message, details);
        self.down.send(Err(status)).await.unwrap();
    }

    pub(super) async fn grant_next(&mut self, token: u64) -> Vec<u8> {
        let id = self.expect_acquire().await.request_id;
        self.granted(id.clone(), token).await;
        id
    }

    pub(super) async fn granted(&self, request_id: Vec<u8>, token: u64) {
        let grant = Some(v1::Grant { token });
        self.tell(Told::Granted(v1::Granted { request_id, grant })).await;
    }

    pub(super) async fn queued(&self, request_id: Vec<u8>, holder: &str, token: u64, ahead: u32) {
        let client = Some(v1::ClientInfo { name: holder.to_owned(), ..Default::default() });
        let holder = Some(v1::Entry { token, client, ..Default::default() });
        self.tell(Told::Queued(v1::Queued { request_id, ahead, holder })).await;
    }

    pub(super) async fn refused(&self, request_id: Vec<u8>, reason: v1::RefusalReason) {
        let refusal = Some(v1::Refusal { reason: reason.into(), ..v1::Refusal::default() });
        self.tell(Told::Refused(v1::Refused { request_id, refusal })).await;
    }

    pub(super) async fn released(&self, request_id: Vec<u8>, outcome: v1::ReleaseOutcome) {
        self.tell(release_answer(request_id, outcome, 0)).await;
    }

    pub(super) async fn failed(&self, request_id: &[u8], reason: v1::Reason) {
        let failure =
            v1::Failure { reason: reason.into(), message: "not now".to_owned(), retry_after: None };
        let request_id = request_id.to_vec();
        self.tell(Told::Failed(v1::Failed { request_id, failure: Some(failure) })).await;
    }
}

/// Fails a test that would wait for ever: far longer than any lease, on paused time.
pub(super) async fn within_patience<T>(waiting: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(600), waiting).await.expect("it never came")
}

/// The answer to a release that is in the log at this place.
pub(super) fn release_answer(
    request_id: Vec<u8>,
    outcome: v1::ReleaseOutcome,
    position: u64,
) -> Told {
    Told::Released(v1::Released { request_id, outcome: outcome.into(), position })
}

fn frame(told: impl IntoIterator<Item = Told>, durable: u64) -> AttachResponse {
    let message = |told| ServerMessage { message: Some(told) };
    AttachResponse { messages: told.into_iter().map(message).collect(), durable }
}

/// An entry that a resumed session has.
pub(super) fn entry(request_id: &[u8], token: u64, granted: bool) -> v1::AttachedEntry {
    v1::AttachedEntry { request_id: request_id.to_vec(), token, granted }
}

/// An id that the client does not know.
pub(super) fn stranger() -> Vec<u8> {
    RequestId::random().as_bytes().to_vec()
}

#[tonic::async_trait]
impl SessionService for Service {
    type AttachStream = ReceiverStream<Result<AttachResponse, Status>>;

    async fn attach(
        &self,
        request: Request<Streaming<AttachRequest>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let (down, told) = mpsc::channel(64);
        let (asks, asked) = mpsc::channel(64);
        let (muted, seen) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let stream = Stream { asked, down, muted, seen };
        let reading = read(
            request.into_inner(),
            asks,
            stream.down.clone(),
            (Arc::clone(&stream.muted), Arc::clone(&stream.seen)),
        );
        self.tasks.spawn(reading);
        self.streams.send(stream).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(told)))
    }

    async fn open_session(
        &self,
        request: Request<v1::OpenSessionRequest>,
    ) -> Result<Response<v1::OpenSessionResponse>, Status> {
        self.opens.lock().unwrap().push(request.into_inner());
        Err(Status::unavailable("the answer is lost"))
    }

    async fn keep_alive(
        &self,
        _: Request<v1::KeepAliveRequest>,
    ) -> Result<Response<v1::KeepAliveResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn close_session(
        &self,
        _: Request<v1::CloseSessionRequest>,
    ) -> Result<Response<v1::CloseSessionResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }
}

/// Hands on what the client asks, and answers its keepalives.
async fn read(
    mut inbound: Streaming<AttachRequest>,
    asks: mpsc::Sender<Ask>,
    down: mpsc::Sender<Result<AttachResponse, Status>>,
    (muted, seen): (Arc<AtomicBool>, Arc<Mutex<Seen>>),
) {
    let mut ttl = None;
    // The test drops its end of the stream to break it, so this end is a weak one.
    let down = {
        let weak = down.downgrade();
        drop(down);
        weak
    };
    while let Ok(Some(AttachRequest { messages })) = inbound.message().await {
        seen.lock().unwrap().frames.push(messages.len());
        for ask in messages.into_iter().filter_map(|message| message.message) {
            match ask {
                Ask::KeepAlive(v1::KeepAlive { sequence }) => {
                    if muted.load(Ordering::SeqCst) {
                        continue;
                    }
                    let ttl = ttl.unwrap_or(super::TTL).try_into().ok();
                    let ack = Told::KeepAliveAck(v1::KeepAliveAck { sequence, ttl });
                    let Some(down) = down.upgrade() else { return };
                    if down.send(Ok(frame([ack], 0))).await.is_err() {
                        return;
                    }
                }
                ask => {
                    if let Ask::Open(open) = &ask {
                        ttl = open.ttl.and_then(|ttl| Duration::try_from(ttl).ok());
                        seen.lock().unwrap().session = open.session.clone().unwrap_or_default();
                    }
                    if let Ask::Acquire(acquire) = &ask {
                        seen.lock().unwrap().acquired = acquire.request_id.clone();
                    }
                    if let Ask::Resume(resume) = &ask {
                        let mut seen = seen.lock().unwrap();
                        seen.session = resume.session.clone().unwrap_or_default();
                        seen.open = resume.open.clone();
                    }
                    if asks.send(ask).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}
