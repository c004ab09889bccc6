//! What only lockd is measured by: handoffs, long queues, many sessions and observers. All by
//! `lockd bench`, as its users would.

use std::{process::Stdio, time::Duration};

use integration_tests::daemon::lockd_binary;
use lockd_client::Client;
use serde_json::Value;
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep},
};

use crate::{
    Subject, machine,
    report::{Row, ms},
};

/// How long an election's change may take to reach all.
const TOLD: Duration = Duration::from_millis(50);

fn bench(subject: &Subject, args: &[&str]) -> Child {
    Command::new(lockd_binary())
        .args(["bench", "--addr", &subject.daemon.url(), "-o", "json"])
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

async fn measured(subject: &Subject, args: &[&str]) -> Value {
    let output = bench(subject, args).wait_with_output().await.unwrap();
    assert!(output.status.success(), "lockd bench {args:?}: {}", output.status);
    serde_json::from_slice(&output.stdout).unwrap()
}

fn time(measured: &Value, kind: &str, quantile: &str) -> Duration {
    Duration::from_nanos(measured["times"][kind][quantile].as_u64().unwrap())
}

pub(crate) async fn handoff(subject: &Subject) -> Vec<Row> {
    let bench = measured(subject, &["--work", "handoff", "--seconds", "10"]).await;
    let [p50, p99] = ["p50Ns", "p99Ns"].map(|quantile| time(&bench, "handoff", quantile));
    let (limit, of) = match machine::etcd_write(subject).await {
        Some(write) => {
            let of = format!("a write to etcd p50 {}, p99 {}", ms(write.p50), ms(write.p99));
            (2 * write.p99, of)
        }
        None => {
            let (fsync, trip) = (machine::fsync(), machine::round_trip(subject).await);
            let of = format!(
                "fsync p50 {}, p99 {}; round trip p50 {}, p99 {}",
                ms(fsync.p50),
                ms(fsync.p99),
                ms(trip.p50),
                ms(trip.p99)
            );
            (2 * fsync.p99 + trip.p99, of)
        }
    };
    let found = format!("p50 {}, p99 {} ({of})", ms(p50), ms(p99));
    vec![Row::new("handoff, p99", subject, format!("≤ {}", ms(limit)), found, p99 <= limit)]
}

pub(crate) async fn queue(subject: &Subject) -> Vec<Row> {
    let short = measured(subject, &["--work", "queue", "--workers", "10"]).await;
    let long = ["--work", "queue", "--workers", "100000", "--conns", "20"];
    let long = measured(subject, &long).await;
    let [short, long] = [short, long].map(|bench| time(&bench, "handoff", "p99Ns"));
    let limit = short.mul_f64(1.5);
    let found = format!("{} with 100,000 in it, {} with 10", ms(long), ms(short));
    let what = "handoff p99 in a queue 100,000 deep";
    vec![Row::new(what, subject, format!("≤ {}", ms(limit)), found, long <= limit)]
}

pub(crate) async fn sessions(subject: &Subject) -> Vec<Row> {
    const COUNT: u64 = 10_000;
    const WATCHED: Duration = Duration::from_secs(30);
    let client = Client::connect(&subject.daemon.url()).await.unwrap();
    let (before, _) = machine::used(subject.daemon.pid());
    let args = ["--work", "sessions", "--workers", "10000", "--seconds", "120"];
    let mut bench = bench(subject, &args);
    let start = Instant::now();
    while client.status().await.unwrap().sessions < COUNT {
        assert!(start.elapsed() < Duration::from_secs(300), "the sessions come up");
        assert_eq!(bench.try_wait().unwrap(), None, "lockd bench goes on: see `ulimit -n`");
        sleep(Duration::from_secs(1)).await;
    }
    // Until their keepalives are spread over the TTL.
    sleep(Duration::from_secs(15)).await;
    let (resident, cpu) = machine::used(subject.daemon.pid());
    sleep(WATCHED).await;
    let (_, after) = machine::used(subject.daemon.pid());
    bench.kill().await.unwrap();
    let share = 100.0 * (after - cpu).as_secs_f64() / WATCHED.as_secs_f64();
    let kib = (resident - before) as f64 / 1024.0 / COUNT as f64;
    let most = if subject.etcd.is_some() { 20.0 } else { 10.0 };
    let what = |of: &str| format!("10,000 idle sessions, {of}");
    vec![
        Row::new(
            what("CPU"),
            subject,
            format!("≤ {most} % of a core"),
            format!("{share:.1} %"),
            share <= most,
        ),
        Row::new(what("memory"), subject, "≤ 40 KiB each", format!("{kib:.1} KiB"), kib <= 40.0),
    ]
}

pub(crate) async fn observe(subject: &Subject) -> Vec<Row> {
    let bench = measured(subject, &["--work", "observe", "--workers", "1000"]).await;
    let [p50, p99] = ["p50Ns", "p99Ns"].map(|quantile| time(&bench, "told_all", quantile));
    let found = format!("p50 {}, p99 {}", ms(p50), ms(p99));
    vec![Row::new("1,000 observers told of a change", subject, "≤ 50 ms", found, p99 <= TOLD)]
}
