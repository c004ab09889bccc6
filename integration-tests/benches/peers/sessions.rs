//! What sessions cost that do nothing: with a connection each, and many over one.

use std::time::Duration;

use integration_tests::eventually;
use lockd_client::Client;
use lockd_proto::DEFAULT_TTL;
use tokio::time::sleep;

use crate::{
    fleet::{Fleet, Size},
    process::{self, Share},
    report::Row,
    subject::Subject,
};

pub(crate) const APART: [&str; 2] = ["10,000 idle sessions, CPU", "10,000 idle sessions, memory"];

pub(crate) const TOGETHER: [&str; 2] = [
    "100,000 sessions over 100 connections, CPU",
    "100,000 sessions over 100 connections, CPU of etcd",
];

/// How long CPU time is watched.
const WATCHED: Duration = Duration::from_secs(30);

/// How long the sessions may take to come.
const PATIENCE: Duration = Duration::from_secs(120);

/// Sessions of `lockd bench`, each with a connection of its own.
pub(crate) async fn apart(subject: &Subject) -> Vec<Row> {
    const COUNT: u64 = 10_000;
    let (most_percent, most_kib) = (6.0, 32.0);
    let client = Client::connect(&subject.daemon.url()).await.unwrap();
    let pid = subject.daemon.pid();
    let before = process::memory(pid);
    let args = ["--work", "sessions", "--workers", "10000", "--seconds", "300"];
    let mut bench = subject.bench(&args);
    eventually("10,000 sessions are open", PATIENCE, async || {
        assert_eq!(bench.try_wait().unwrap(), None, "lockd bench goes on: see `ulimit -n`");
        let sessions = client.status().await.unwrap().sessions;
        if sessions < COUNT { Err(sessions) } else { Ok(()) }
    })
    .await;
    // Until their keepalives are spread over the TTL.
    sleep(DEFAULT_TTL).await;
    let resident = process::memory(pid);
    let share = Share::of(&[pid]);
    sleep(WATCHED).await;
    let percent = share.percent();
    bench.kill().await.unwrap();
    let kib = resident.saturating_sub(before) as f64 / 1024.0 / COUNT as f64;
    let limits = [format!("≤ {most_percent} % of a core"), format!("≤ {most_kib} KiB each")];
    let [cpu, memory] = limits;
    vec![
        Row::new(APART[0], subject, (cpu, format!("{percent:.1} %")), percent <= most_percent),
        Row::new(APART[1], subject, (memory, format!("{kib:.1} KiB")), kib <= most_kib),
    ]
}

/// A hundred thousand over a hundred connections.
pub(crate) async fn together(subject: &Subject) -> Vec<Row> {
    const SIZE: Size = Size { sessions: 100_000, connections: 100, ttl: DEFAULT_TTL };
    let (most, most_of_etcd) = (50.0, 5.0);
    let etcd = etcd(subject);
    let idle = match &etcd[..] {
        [] => 0.0,
        etcd => watched(etcd).await,
    };
    let fleet = Fleet::open(&subject.daemon.url(), SIZE).await;
    sleep(DEFAULT_TTL).await;
    let (share, etcd_share) = (Share::of(&[subject.daemon.pid()]), Share::of(&etcd));
    sleep(WATCHED).await;
    let (percent, of_etcd) = (share.percent(), etcd_share.percent());
    assert_eq!(fleet.lost(), 0, "sessions were lost");
    let texts = (format!("≤ {most} % of a core"), format!("{percent:.1} %"));
    let mut rows = vec![Row::new(TOGETHER[0], subject, texts, percent <= most)];
    if !etcd.is_empty() {
        let more = of_etcd - idle;
        let found =
            format!("{more:.1} % more than without them ({of_etcd:.1} %, {idle:.1} % without)");
        let texts = (format!("≤ {most_of_etcd} % of a core"), found);
        rows.push(Row::new(TOGETHER[1], subject, texts, more <= most_of_etcd));
    }
    rows
}

/// The processes of its members.
fn etcd(subject: &Subject) -> Vec<u32> {
    let addresses = subject.etcd.iter().flat_map(|etcd| etcd.addresses());
    let flag = |address| format!("--listen-client-urls={address}");
    addresses.map(|address| process::started_with(&flag(address))).collect()
}

async fn watched(pids: &[u32]) -> f64 {
    let share = Share::of(pids);
    sleep(WATCHED / 2).await;
    share.percent()
}
