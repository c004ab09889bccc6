//! A TCP proxy with faults that can be switched while it runs: the kernel here has no netem, and a
//! half-open link cannot be had otherwise. Live connections feel a change as well as new ones.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

/// What the link does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Bytes pass.
    Pass,
    /// Bytes pass, each this much later, in each direction.
    Latency(Duration),
    /// Connections are accepted and stay open, and nothing passes: half-open. What was sent meanwhile
    /// arrives when the link passes again.
    Blackhole,
    /// What clients send passes, and what they are answered does not, as [`Self::Blackhole`] has it: the
    /// outcome of what they ask for is unknown to them.
    NoAnswers,
    /// New connections are refused and live ones reset.
    Refuse,
}

/// A TCP proxy in front of one address. It goes away with its value and resets what it carries.
pub struct Proxy {
    address: SocketAddr,
    orders: watch::Sender<Orders>,
    listening: watch::Receiver<bool>,
    upstream: Arc<Mutex<String>>,
    task: JoinHandle<()>,
}

/// The settings that the connections follow.
#[derive(Clone, Copy)]
struct Orders {
    mode: Mode,
    /// Counts the resets: a connection older than the last one ends.
    resets: u64,
}

/// Bytes on their way, with the time at which they may arrive.
type Chunk = (Instant, Vec<u8>);

/// Chunks on their way in one direction; with more the sender waits, as on a real link.
const IN_FLIGHT: usize = 256;
const CHUNK_BYTES: usize = 16 * 1024;

impl Proxy {
    /// Starts a proxy on a free port of 127.0.0.1 in front of `upstream`, a `host:port`; it passes.
    ///
    /// # Panics
    /// When no port is free.
    pub async fn start(upstream: impl Into<String>) -> Self {
        let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let (orders, heard) = watch::channel(Orders { mode: Mode::Pass, resets: 0 });
        let (told, listening) = watch::channel(true);
        let upstream = Arc::new(Mutex::new(upstream.into()));
        let task = tokio::spawn(accept(listener, upstream.clone(), heard, told));
        Self { address, orders, listening, upstream, task }
    }

    /// Where it listens; the same for its whole life.
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// The same as a URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Changes what the link does; when this returns, new connections meet the new mode.
    ///
    /// # Panics
    /// When the port cannot be taken again after [`Mode::Refuse`].
    pub async fn set(&self, mode: Mode) {
        self.orders.send_modify(|orders| {
            orders.mode = mode;
            orders.resets += u64::from(mode == Mode::Refuse);
        });
        let mut listening = self.listening.clone();
        let done = listening.wait_for(|listening| *listening == (mode != Mode::Refuse)).await;
        done.expect("the proxy's port can be taken again");
    }

    /// Leads new connections to another `host:port`.
    ///
    /// # Panics
    /// Never: no panic holds the lock.
    pub fn lead_to(&self, upstream: impl Into<String>) {
        *self.upstream.lock().expect("no panic holds it") = upstream.into();
    }

    /// Resets the live connections once; new ones are as the mode says.
    pub fn reset_connections(&self) {
        self.orders.send_modify(|orders| orders.resets += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Accepts while the mode allows it. Dropping the future drops every connection with it.
async fn accept(
    listener: TcpListener,
    upstream: Arc<Mutex<String>>,
    mut orders: watch::Receiver<Orders>,
    told: watch::Sender<bool>,
) {
    let address = listener.local_addr().expect("a bound address");
    let mut listener = Some(listener);
    let mut connections = JoinSet::new();
    loop {
        let refusing = orders.borrow_and_update().mode == Mode::Refuse;
        match (refusing, listener.is_some()) {
            (true, true) => listener = None,
            (false, false) => {
                listener = Some(listen(address).expect("the port can be taken again"))
            }
            (true, false) | (false, true) => {}
        }
        told.send_replace(listener.is_some());
        tokio::select! {
            changed = orders.changed() => if changed.is_err() { return },
            Some(accepted) = next(listener.as_ref()) => {
                let upstream = upstream.lock().expect("no panic holds it").clone();
                connections.spawn(serve(accepted, upstream, orders.clone()));
            }
            Some(_ended) = connections.join_next() => {}
        }
    }
}

async fn next(listener: Option<&TcpListener>) -> Option<TcpStream> {
    match listener {
        Some(listener) => listener.accept().await.ok().map(|(stream, _from)| stream),
        None => None,
    }
}

/// Carries one connection until it ends or is reset.
async fn serve(mut client: TcpStream, upstream: String, mut orders: watch::Receiver<Orders>) {
    let born = orders.borrow().resets;
    let mut state = orders.clone();
    let broken = tokio::select! {
        carried = carry(&mut client, &upstream, &mut orders) => carried.is_err(),
        _reset = state.wait_for(|orders| orders.resets > born) => true,
    };
    if broken {
        // A close that discards is a reset on the wire; if it cannot be had, a plain close will do.
        client.set_zero_linger().unwrap_or_default();
    }
}

async fn carry(
    client: &mut TcpStream,
    upstream: &str,
    orders: &mut watch::Receiver<Orders>,
) -> io::Result<()> {
    passing(orders, Direction::Requests).await?;
    let mut server = TcpStream::connect(upstream).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    tokio::try_join!(
        pump(from_client, to_server, (orders.clone(), Direction::Requests)),
        pump(from_server, to_client, (orders.clone(), Direction::Answers)),
    )?;
    Ok(())
}

/// Carries one direction. Reading and writing are apart, so that latency does not limit throughput.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    (orders, direction): (watch::Receiver<Orders>, Direction),
) -> io::Result<()> {
    let (queue, mut arriving) = mpsc::channel::<Chunk>(IN_FLIGHT);
    let mut at_entry = orders.clone();
    let mut at_exit = orders;
    let read = async move {
        loop {
            let mut chunk = vec![0; CHUNK_BYTES];
            let length = from.read(&mut chunk).await?;
            chunk.truncate(length);
            let latency = passing(&mut at_entry, direction).await?;
            if length == 0 || queue.send((Instant::now() + latency, chunk)).await.is_err() {
                return Ok(());
            }
        }
    };
    let write = async move {
        while let Some((due, chunk)) = arriving.recv().await {
            // A timer is up to a millisecond late, which is long for a link without latency.
            if due > Instant::now() {
                sleep_until(due).await;
            }
            passing(&mut at_exit, direction).await?;
            to.write_all(&chunk).await?;
        }
        to.shutdown().await
    };
    tokio::try_join!(read, write).map(|((), ())| ())
}

/// Which way bytes go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Requests,
    Answers,
}

/// Waits until bytes may pass and gives back how late they are.
async fn passing(
    orders: &mut watch::Receiver<Orders>,
    direction: Direction,
) -> io::Result<Duration> {
    let open = |orders: &Orders| match orders.mode {
        Mode::Pass | Mode::Latency(_) => true,
        Mode::NoAnswers => direction == Direction::Requests,
        Mode::Blackhole | Mode::Refuse => false,
    };
    let orders = orders.wait_for(open).await.map_err(io::Error::other)?;
    Ok(match orders.mode {
        Mode::Latency(latency) => latency,
        Mode::Pass | Mode::Blackhole | Mode::NoAnswers | Mode::Refuse => Duration::ZERO,
    })
}

/// Listens with the address reusable, so that the port can be taken again while old connections linger.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(128)
}
