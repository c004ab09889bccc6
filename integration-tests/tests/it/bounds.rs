//! One client's input costs in proportion to itself, and delays others by no more than its share: each
//! of these stopped or crippled a daemon once. An honest client works beside each of them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use integration_tests::{Daemon, eventually};
use lockd_client::Client;
use lockd_proto::{
    SessionId,
    v1::{
        self, AttachRequest, ClientMessage, client_message::Message as Ask,
        lock_service_client::LockServiceClient, session_service_client::SessionServiceClient,
    },
};
use prost::Message as _;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, timeout},
};
use tonic::{client::Grpc, transport::Channel};

use crate::metrics::{scrape, value};
use crate::world::{
    Raw, SOON, World, acquire_of, both_stores, client_of, http_status, reason, soon,
};

/// The lease of the honest client.
const LEASE: Duration = Duration::from_secs(5);

/// How often it takes a lock.
const PACE: Duration = Duration::from_millis(100);

/// A wait beyond this is a stall, also on a busy machine. What is usual is measured by benchmarks.
const STALL: Duration = Duration::from_secs(2);

/// The most that the core may do in one turn, which is what an honest client waits for: a turn's share of
/// messages and operations, and the end of one session that has as many entries as it may have. Counted,
/// since a time says more of the machine: what a message or an operation costs does not depend on who sends it.
const LARGEST_TURN: f64 = 4.0 * 1024.0 + 4.0 * 10_000.0;

both_stores!(
    a_burst_of_acquires_and_a_close_is_taken_a_share_a_turn,
    many_updates_of_one_lock_hold_up_no_other,
    many_owners_in_one_queue_hold_up_no_other,
    owners_that_wait_in_a_ring_hold_up_no_other,
    a_watcher_that_never_reads_is_cut_off,
    tokens_from_the_future_leave_nothing,
    durations_of_any_length_are_understood,
);

/// A client that holds one lock all the time and takes another one every 100 ms.
struct Honest<'a> {
    daemon: &'a Daemon,
    stop: Arc<AtomicBool>,
    /// How many locks it took so far.
    served: watch::Receiver<usize>,
    task: JoinHandle<Vec<Duration>>,
}

impl<'a> Honest<'a> {
    async fn begins(world: &'a World) -> Self {
        let daemon = &world.daemons[0];
        let client = client_of(&world.daemons[0].url(), LEASE).await;
        let held = client.lock("honest/held").acquire(&soon()).await.unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let (serves, served) = watch::channel(0);
        let task = tokio::spawn(async move {
            let (mut took, mut turn) = (Vec::new(), 0);
            while !stopped.load(Ordering::Relaxed) {
                turn += 1;
                let start = Instant::now();
                let lock = client.lock(format!("honest/{}", turn % 7));
                let guard = lock.acquire(&soon()).await.expect("the honest client is served");
                took.push(start.elapsed());
                serves.send_replace(took.len());
                guard.release().await.unwrap();
                tokio::time::sleep_until(start + PACE).await;
            }
            assert!(held.release().await.is_ok(), "the lease of 5 s was kept");
            client.shutdown().await;
            took
        });
        Self { daemon, stop, served, task }
    }

    /// Waits until it took so many more locks.
    async fn goes_on(&mut self, locks: usize) {
        let until = *self.served.borrow() + locks;
        let goes_on = self.served.wait_for(|served| *served >= until);
        timeout(SOON, goes_on).await.expect("it is served").expect("it runs");
    }

    /// Ends, and says that it was served all the time.
    async fn was_served(self) {
        self.stop.store(true, Ordering::Relaxed);
        let mut took = self.task.await.unwrap();
        took.sort_unstable();
        let at = |share: usize| took[(took.len() - 1) * share / 100];
        println!("the honest client: {} locks, p50 {:?}, p99 {:?}", took.len(), at(50), at(99));
        assert!(at(99) < STALL, "p99 {:?} of {}", at(99), took.len());
        let largest = value(&scrape(self.daemon).await, "lockd_largest_turn").unwrap();
        println!("the largest turn: {largest}");
        assert!(largest > 0.0 && largest <= LARGEST_TURN, "{largest}");
    }
}

fn credential() -> v1::SessionCredential {
    let (session_id, secret) = (SessionId::random().to_string(), "5e".repeat(32));
    v1::SessionCredential { session_id, secret, stream: 1 }
}

fn open(ttl: Duration) -> Ask {
    let (ttl, session) = (ttl.try_into().ok(), Some(credential()));
    Ask::Open(v1::OpenSessionRequest { ttl, client: None, session })
}

fn request_id(number: u32) -> Vec<u8> {
    let mut id = vec![7; 16];
    id[..4].copy_from_slice(&number.to_be_bytes());
    id
}

fn acquire(number: u32, name: String) -> v1::Acquire {
    v1::Acquire { request_id: request_id(number), name, ..v1::Acquire::default() }
}

/// Sends all of it on a connection of its own, as fast as it goes, and reads what comes back for as
/// long as `reads` says.
async fn stream(
    url: &str,
    asks: Vec<Ask>,
    reads: impl AsyncFnOnce(tonic::Streaming<v1::AttachResponse>),
) {
    let channel = Channel::from_shared(url.to_owned()).unwrap().connect().await.unwrap();
    let frames = frames(asks);
    let (up, inbound) = tokio::sync::mpsc::channel(4);
    let send = tokio::spawn(async move {
        for frame in frames {
            if up.send(frame).await.is_err() {
                return;
            }
        }
        // The stream stays open until the task is aborted.
        std::future::pending::<()>().await;
    });
    let mut client = SessionServiceClient::new(channel);
    let inbound = tokio_stream::wrappers::ReceiverStream::new(inbound);
    let answers = client.attach(inbound).await.unwrap().into_inner();
    reads(answers).await;
    send.abort();
}

/// As few frames as can be sent.
fn frames(asks: Vec<Ask>) -> Vec<AttachRequest> {
    let (mut frames, mut frame) = (Vec::new(), AttachRequest::default());
    let mut bytes = 0;
    for ask in asks {
        let message = ClientMessage { message: Some(ask) };
        bytes += message.encoded_len();
        frame.messages.push(message);
        if bytes > 60_000 || frame.messages.len() == 500 {
            frames.push(std::mem::take(&mut frame));
            bytes = 0;
        }
    }
    frames.push(frame);
    frames
}

async fn ended(mut answers: tonic::Streaming<v1::AttachResponse>) {
    let end = async { while let Ok(Some(_)) = answers.message().await {} };
    timeout(Duration::from_secs(60), end).await.expect("the stream ends");
}

async fn is_well(daemon: &Daemon) {
    assert_eq!(http_status(daemon, "/livez").await, Some(200));
    assert_eq!(http_status(daemon, "/readyz").await, Some(200));
}

async fn nothing_is_left(client: &Client, prefix: &str) {
    eventually("nothing is left", Duration::from_secs(30), async || {
        let found = client.list(prefix).await.ok()?;
        found.is_empty().then_some(())
    })
    .await;
}

async fn a_burst_of_acquires_and_a_close_is_taken_a_share_a_turn(world: World) {
    let honest = Honest::begins(&world).await;
    let burst = |lane: u32| {
        let url = world.daemons[0].url();
        let acquires = (0..10_000)
            .map(move |number| Ask::Acquire(acquire(number, format!("burst/{lane}/{number}"))));
        let asks: Vec<_> = std::iter::once(open(Duration::from_secs(60)))
            .chain(acquires)
            .chain([Ask::Close(v1::Close {})])
            .collect();
        async move { stream(&url, asks, ended).await }
    };
    burst(0).await;
    tokio::join!(burst(1), burst(2), burst(3));
    nothing_is_left(&world.client().await, "burst/").await;
    honest.was_served().await;
    is_well(&world.daemons[0]).await;
}

async fn many_updates_of_one_lock_hold_up_no_other(world: World) {
    let honest = Honest::begins(&world).await;
    let value = || v1::Change { change: Some(v1::change::Change::Value(vec![7; 4096])) };
    let update = |_| Ask::Update(v1::Update { request_id: request_id(1), change: Some(value()) });
    let first = [open(Duration::from_secs(60)), Ask::Acquire(acquire(1, "updated".to_owned()))];
    let asks: Vec<_> =
        first.into_iter().chain((0..8_000).map(update)).chain([Ask::Close(v1::Close {})]).collect();
    stream(&world.daemons[0].url(), asks, ended).await;
    nothing_is_left(&world.client().await, "updated").await;
    honest.was_served().await;
    is_well(&world.daemons[0]).await;
}

async fn many_owners_in_one_queue_hold_up_no_other(world: World) {
    let mut honest = Honest::begins(&world).await;
    let waits = (0..2_000).map(|number| {
        let owner = format!("order-{number}");
        Ask::Acquire(v1::Acquire { owner, ..acquire(number, "queue".to_owned()) })
    });
    let asks: Vec<_> = std::iter::once(open(Duration::from_secs(60))).chain(waits).collect();
    let client = world.client().await;
    stream(&world.daemons[0].url(), asks, async |_answers| {
        eventually("all wait", SOON, async || {
            let found = client.get("queue").await.ok()??;
            (found.waiters.len() == 1_999).then_some(())
        })
        .await;
        // The search for deadlocks goes on meanwhile.
        honest.goes_on(20).await;
    })
    .await;
    honest.was_served().await;
    is_well(&world.daemons[0]).await;
}

/// A thousand owners, each of which holds a lock and waits for that of the next one: one of them is
/// refused as part of a deadlock.
async fn owners_that_wait_in_a_ring_hold_up_no_other(world: World) {
    const OWNERS: u32 = 1_000;
    let honest = Honest::begins(&world).await;
    let ask = |number: u32, lock: u32, owner: u32| {
        let owner = format!("order-{owner}");
        Ask::Acquire(v1::Acquire { owner, ..acquire(number, format!("ring/{lock}")) })
    };
    let holds = (0..OWNERS).map(|owner| ask(owner, owner, owner));
    let waits = (0..OWNERS).map(|owner| ask(OWNERS + owner, (owner + 1) % OWNERS, owner));
    let asks: Vec<_> =
        std::iter::once(open(Duration::from_secs(60))).chain(holds).chain(waits).collect();
    stream(&world.daemons[0].url(), asks, async |mut answers| {
        let refused = async {
            loop {
                let frame = answers.message().await.unwrap().expect("the stream goes on");
                let refused = frame.messages.into_iter().find_map(|it| match it.message {
                    Some(v1::server_message::Message::Refused(refused)) => refused.refusal,
                    _ => None,
                });
                if let Some(refusal) = refused {
                    return refusal;
                }
            }
        };
        let refusal = timeout(Duration::from_secs(20), refused).await.unwrap();
        assert_eq!(refusal.reason(), v1::RefusalReason::Deadlock);
    })
    .await;
    honest.was_served().await;
    is_well(&world.daemons[0]).await;
}

async fn a_watcher_that_never_reads_is_cut_off(world: World) {
    let honest = Honest::begins(&world).await;
    let channel = Channel::from_shared(world.daemons[0].url()).unwrap().connect().await.unwrap();
    let request = v1::WatchRequest { prefix: "watched/".to_owned(), ..v1::WatchRequest::default() };
    let mut watch = LockServiceClient::new(channel).watch(request).await.unwrap().into_inner();
    // What one session may have on its way to etcd is bounded as well.
    for part in 0..4 {
        let pairs = (0..5_000).flat_map(|number| {
            let name = format!("watched/{part}-{number}-{}", "x".repeat(200));
            let release = v1::Release { request_id: request_id(number) };
            [Ask::Acquire(acquire(number, name)), Ask::Release(release)]
        });
        let asks: Vec<_> = std::iter::once(open(Duration::from_secs(60)))
            .chain(pairs)
            .chain([Ask::Close(v1::Close {})])
            .collect();
        stream(&world.daemons[0].url(), asks, ended).await;
    }
    let end = async {
        loop {
            match watch.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the watch ended without a reason"),
                Err(status) => return status,
            }
        }
    };
    let status = timeout(SOON, end).await.expect("the watch has ended");
    assert_eq!(reason(&status), "SLOW_CONSUMER");
    honest.was_served().await;
}

async fn tokens_from_the_future_leave_nothing(world: World) {
    let mut raw = world.raw().await;
    let session = raw.open(Duration::from_secs(30)).await;
    let releases = (0..2_000_u64).map(|number| {
        let mut locks = raw.locks.clone();
        let request = v1::ReleaseRequest {
            session: Some(session.clone()),
            name: "l".to_owned(),
            request_id: vec![9; 16],
            token: u64::MAX - number,
            ..v1::ReleaseRequest::default()
        };
        async move { locks.release(request).await.unwrap().into_inner().outcome() }
    });
    let start = Instant::now();
    for outcome in futures::future::join_all(releases).await {
        assert_eq!(outcome, v1::ReleaseOutcome::AlreadyLost);
    }
    assert!(start.elapsed() < SOON, "none of them waits for its token: {:?}", start.elapsed());
}

async fn durations_of_any_length_are_understood(world: World) {
    let mut raw = world.raw().await;
    let session = raw.open(Duration::from_secs(30)).await;
    let wait = |seconds: i64, nanos: i32| v1::Acquire {
        max_wait: Some(prost_types::Duration { seconds, nanos }),
        ..acquire_of("long", u8::try_from(seconds.rem_euclid(200)).unwrap())
    };
    for seconds in [3 * 365 * 24 * 3600, 315_576_000_000, i64::MAX] {
        let granted = raw.acquire(&session, wait(seconds, 0)).await;
        let response = granted.unwrap();
        let release = v1::CancelRequest {
            session: Some(session.clone()),
            name: "long".to_owned(),
            request_id: response.request_id,
            ..v1::CancelRequest::default()
        };
        raw.locks.cancel(release).await.unwrap();
    }
    for (seconds, nanos) in [(-1, 0), (i64::MIN, 0), (0, -1)] {
        let status = raw.acquire(&session, wait(seconds, nanos)).await.unwrap_err();
        assert_eq!(reason(&status), "REQUEST_INVALID");
    }
    for seconds in [0, i64::MAX] {
        let ttl = Some(prost_types::Duration { seconds, nanos: 0 });
        let request = v1::OpenSessionRequest { ttl, client: None, session: None };
        let status = raw.sessions.open_session(request).await.unwrap_err();
        assert_eq!(reason(&status), "TTL_OUT_OF_RANGE");
    }
    is_well(&world.daemons[0]).await;
}

/// Answers that are asked for and never read are counted: beyond their bound a call ends with a reason,
/// and another connection is served.
#[tokio::test]
async fn answers_that_are_never_read_are_bounded() {
    let world = World::embedded().await;
    let waits = (0..1_000).map(|number| {
        let metadata = [("k".to_owned(), "x".repeat(3_900))].into();
        let value = vec![7; 4_000];
        Ask::Acquire(v1::Acquire { metadata, value, ..acquire(number, "large".to_owned()) })
    });
    let asks: Vec<_> = std::iter::once(open(Duration::from_secs(60))).chain(waits).collect();
    let url = world.daemons[0].url();
    stream(&url, asks, async |_answers| {
        let mut other = Raw::connect(&url).await;
        let request = v1::GetRequest { name: "large".to_owned(), ..v1::GetRequest::default() };
        eventually("the queue is longer than a page", SOON, async || {
            let found = other.locks.clone().get(request.clone()).await;
            let page = found.map_err(|status| status.to_string())?.into_inner();
            if page.next_after > 0 { Ok(()) } else { Err("it has one page".to_owned()) }
        })
        .await;
        let channel = Channel::from_shared(url.clone()).unwrap().connect().await.unwrap();
        let (mut unread, mut refused) = (Vec::new(), 0);
        for _ in 0..200 {
            match get_without_reading(&channel, "large").await {
                Ok(answer) => unread.push(answer),
                Err(status) => {
                    assert_eq!(reason(&status), "SLOW_CONSUMER");
                    refused += 1;
                }
            }
        }
        assert!(refused > 100, "{refused} were refused, {} lie unread", unread.len());
        assert!(other.locks.get(request).await.is_ok(), "others are served");
        // The first one has arrived; those after it wait for room on the connection.
        let mut first = unread.remove(0);
        let page = timeout(SOON, first.message()).await.expect("it has arrived");
        assert!(page.unwrap().unwrap().next_after > 0, "a page has its bound too");
    })
    .await;
}

/// Calls Get as if its answer were a stream, so that it is read when that is asked for.
async fn get_without_reading(
    channel: &Channel,
    name: &str,
) -> Result<tonic::Streaming<v1::GetResponse>, tonic::Status> {
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    let request = v1::GetRequest { name: name.to_owned(), ..v1::GetRequest::default() };
    let path = http::uri::PathAndQuery::from_static("/lockd.v1.LockService/Get");
    let codec = tonic_prost::ProstCodec::default();
    let answer = grpc.server_streaming(tonic::Request::new(request), path, codec).await?;
    Ok(answer.into_inner())
}
