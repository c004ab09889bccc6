//! An app that is asked over HTTP, and answers as the test says.

use std::net::SocketAddr;

use integration_tests::eventually;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    task::JoinSet,
};

use crate::world::SOON;

/// What it does when it is asked.
#[derive(Debug, Clone, Copy)]
pub(super) enum Manner {
    /// Answers with this status and a way on to nowhere. What it has to say never comes to its end.
    Answers(&'static str),
    Hangs,
    /// Closes the connection without a word.
    HangsUp,
}

/// An app that keeps its port when it dies. Dies when dropped.
pub(super) struct HttpApp {
    port: TcpSocket,
    /// Every connection has one of its receivers, and so has the listener.
    manner: watch::Sender<Manner>,
    asked: watch::Sender<usize>,
    running: JoinSet<()>,
}

impl HttpApp {
    /// Not started yet: who asks is refused.
    pub(super) fn new() -> Self {
        Self {
            port: socket(SocketAddr::from(([127, 0, 0, 1], 0))),
            manner: watch::Sender::new(Manner::Hangs),
            asked: watch::Sender::new(0),
            running: JoinSet::new(),
        }
    }

    fn addr(&self) -> SocketAddr {
        self.port.local_addr().unwrap()
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/livez", self.addr())
    }

    pub(super) fn starts(&mut self, manner: Manner) {
        self.now(manner);
        let listener = socket(self.addr()).listen(16).unwrap();
        self.running.spawn(accept(listener, self.manner.subscribe(), self.asked.clone()));
    }

    /// From the next question on.
    pub(super) fn now(&self, manner: Manner) {
        self.manner.send_replace(manner);
    }

    /// Its listener and connections are closed, as those of a process that is killed.
    pub(super) fn dies(&mut self) {
        self.running.abort_all();
    }

    /// Waits until it is asked this many times more.
    pub(super) async fn is_asked(&self, times: usize) {
        let mut asked = self.asked.subscribe();
        let enough = *asked.borrow() + times;
        tokio::time::timeout(SOON, asked.wait_for(|asked| *asked >= enough))
            .await
            .expect("it is asked")
            .unwrap();
    }

    /// Waits until no connection is kept.
    pub(super) async fn is_left(&self) {
        eventually("nobody keeps a connection", SOON, async || self.manner.receiver_count() == 1)
            .await;
    }
}

/// Other ones may have the same port while none of them listens.
fn socket(addr: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(addr).unwrap();
    socket
}

async fn accept(
    listener: TcpListener,
    manner: watch::Receiver<Manner>,
    asked: watch::Sender<usize>,
) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        connections.spawn(serve(BufReader::new(stream), manner.clone(), asked.clone()));
    }
}

async fn serve(
    mut stream: BufReader<TcpStream>,
    manner: watch::Receiver<Manner>,
    asked: watch::Sender<usize>,
) {
    let mut line = String::new();
    while stream.read_line(&mut line).await.is_ok_and(|read| read > 2) {
        line.clear();
    }
    asked.send_modify(|asked| *asked += 1);
    let manner = *manner.borrow();
    match manner {
        Manner::Answers(status) => {
            let head = "location: http://127.0.0.1:1/\r\ncontent-length: 1000000";
            let answer = format!("HTTP/1.1 {status}\r\n{head}\r\n\r\nalive");
            // Who asks may have gone.
            drop(stream.write_all(answer.as_bytes()).await);
            drop(stream.read_to_end(&mut Vec::new()).await);
        }
        Manner::Hangs => std::future::pending().await,
        Manner::HangsUp => {}
    }
}
