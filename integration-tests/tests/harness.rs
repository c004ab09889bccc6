//! The harness keeps its own promises: what the other tests build on is tested here, on etcd itself.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "what cannot be set up ends the test"
)]

use std::time::Duration;

use integration_tests::{
    Etcd, EtcdCluster, Mode, Postgres, Proxy, Redis, eventually, unique_prefix,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

const SOON: Duration = Duration::from_secs(5);
const SILENCE: Duration = Duration::from_millis(200);

/// A server that sends back what it gets.
async fn echo() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _from)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await
            });
        }
    });
    address
}

async fn ask(stream: &mut TcpStream) -> std::io::Result<u8> {
    stream.write_all(b"?").await?;
    stream.read_u8().await
}

#[tokio::test]
async fn a_proxy_passes_and_delays_each_way() {
    let proxy = Proxy::start(echo().await).await;
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    assert_eq!(ask(&mut stream).await.unwrap(), b'?');

    proxy.set(Mode::Latency(Duration::from_millis(50))).await;
    let start = Instant::now();
    assert_eq!(ask(&mut stream).await.unwrap(), b'?');
    assert!(start.elapsed() >= Duration::from_millis(100));
}

#[tokio::test]
async fn a_black_hole_swallows_live_and_new_connections_until_it_passes_again() {
    let proxy = Proxy::start(echo().await).await;
    let mut live = TcpStream::connect(proxy.addr()).await.unwrap();
    assert_eq!(ask(&mut live).await.unwrap(), b'?');

    proxy.set(Mode::Blackhole).await;
    let mut new = TcpStream::connect(proxy.addr()).await.unwrap();
    assert!(timeout(SILENCE, ask(&mut live)).await.is_err());
    assert!(timeout(SILENCE, ask(&mut new)).await.is_err());

    proxy.set(Mode::Pass).await;
    assert_eq!(timeout(SOON, live.read_u8()).await.unwrap().unwrap(), b'?');
    assert_eq!(timeout(SOON, new.read_u8()).await.unwrap().unwrap(), b'?');
}

#[tokio::test]
async fn a_refusing_proxy_resets_live_connections_and_comes_back_on_its_port() {
    let proxy = Proxy::start(echo().await).await;
    let mut live = TcpStream::connect(proxy.addr()).await.unwrap();
    assert_eq!(ask(&mut live).await.unwrap(), b'?');

    proxy.set(Mode::Refuse).await;
    assert_eq!(live.read_u8().await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert!(TcpStream::connect(proxy.addr()).await.is_err());

    proxy.set(Mode::Pass).await;
    let mut back = TcpStream::connect(proxy.addr()).await.unwrap();
    assert_eq!(ask(&mut back).await.unwrap(), b'?');

    proxy.reset_connections();
    assert_eq!(back.read_u8().await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    let mut again = TcpStream::connect(proxy.addr()).await.unwrap();
    assert_eq!(ask(&mut again).await.unwrap(), b'?');
}

#[tokio::test]
async fn tests_share_one_etcd_and_stay_apart_by_prefix() {
    let (mine, theirs) = (unique_prefix(), unique_prefix());
    assert_ne!(mine, theirs);
    let mut client = Etcd::shared().await.client().await;
    client.put(format!("{mine}key"), "value", None).await.unwrap();
    assert!(client.get(format!("{theirs}key"), None).await.unwrap().kvs().is_empty());
    assert_eq!(
        Etcd::shared().await.client().await.get(format!("{mine}key"), None).await.unwrap().count(),
        1
    );
}

#[tokio::test]
async fn an_etcd_of_a_test_s_own_takes_flags() {
    let etcd = Etcd::builder().arg("--max-txn-ops=1").start().await;
    let two_puts = ["a", "b"].map(|key| etcd_client::TxnOp::put(key, "", None));
    let refused = etcd.client().await.txn(etcd_client::Txn::new().and_then(two_puts)).await;
    assert!(refused.unwrap_err().to_string().contains("too many operations"));
}

/// A write that the member answers, or why it does not.
async fn put(cluster: &EtcdCluster, member: usize) -> Result<(), String> {
    let mut client = cluster.client(member).await;
    match timeout(Duration::from_secs(1), client.put("key", "value", None)).await {
        Ok(answer) => answer.map(|_put| ()).map_err(|error| error.to_string()),
        Err(_elapsed) => Err("silence".to_owned()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_survives_each_fault_of_its_leader_and_heals() {
    let cluster = EtcdCluster::start(3).await;
    assert_eq!(cluster.endpoints().len(), 3);

    let killed = cluster.leader().await;
    cluster.kill(killed).await;
    cluster.leader_after(killed).await;
    assert!(put(&cluster, killed).await.is_err());
    cluster.start_again(killed).await;
    eventually("the killed member writes", SOON, async || put(&cluster, killed).await).await;

    let frozen = cluster.leader().await;
    cluster.pause(frozen).await;
    cluster.leader_after(frozen).await;
    assert_eq!(put(&cluster, frozen).await.unwrap_err(), "silence");
    cluster.unpause(frozen).await;
    eventually("the frozen member writes", SOON, async || put(&cluster, frozen).await).await;

    let alone = cluster.leader().await;
    cluster.cut_off(alone).await;
    cluster.leader_after(alone).await;
    assert_eq!(put(&cluster, alone).await.unwrap_err(), "silence");
    cluster.rejoin(alone).await;
    eventually("the member that was cut off writes", SOON, async || put(&cluster, alone).await)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_cut_off_from_its_peers_still_hears_clients() {
    let cluster = EtcdCluster::start(3).await;
    let leader = cluster.leader().await;
    cluster.cut_off_from_peers(leader).await;
    cluster.leader_after(leader).await;
    assert!(put(&cluster, leader).await.is_err());
    cluster.client(leader).await.status().await.unwrap();

    cluster.rejoin(leader).await;
    eventually("the member writes", SOON, async || put(&cluster, leader).await).await;
}

#[tokio::test]
async fn the_shared_databases_answer() {
    let postgres = Postgres::shared().await;
    assert_eq!(postgres.sql("SELECT 40 + 2").await, "42");
    let mut redis = TcpStream::connect(Redis::shared().await.address()).await.unwrap();
    redis.write_all(b"PING\r\n").await.unwrap();
    let mut answer = [0; 7];
    timeout(SOON, redis.read_exact(&mut answer)).await.expect("in time").unwrap();
    assert_eq!(&answer, b"+PONG\r\n");
}
