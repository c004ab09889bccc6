//! Handoffs: what the machine's own steps leave of them, and whether a long queue slows them down.
//! By `lockd bench`, as users would.

use std::time::Duration;

use serde_json::Value;

use crate::{
    machine::{self, Steps},
    plan::Plan,
    report::{Row, ms},
    subject::Subject,
};

pub(crate) const ROWS: [&str; 2] = ["handoff p50", "handoff p99"];

pub(crate) const QUEUE: &str = "handoff p99 in a queue 100,000 deep";

/// How long handoffs are measured in a round.
const SECONDS: &str = "3";

/// How much longer a handoff may take than the steps that it consists of: p50 and p99.
const FACTORS: [f64; 2] = [1.5, 2.0];

/// The handoffs in a report of `lockd bench`.
fn handoffs(report: &Value) -> Steps {
    let time = |quantile| {
        let nanos = report["times"]["handoff"][quantile].as_u64();
        Duration::from_nanos(nanos.expect("there were handoffs"))
    };
    Steps { p50: time("p50Ns"), p99: time("p99Ns") }
}

/// What a handoff consists of: a round trip, and what makes the release durable.
pub(crate) async fn steps(subject: &Subject, plan: &Plan) -> Vec<Row> {
    let (mut found, mut durable, mut trips) = (vec![], vec![], vec![]);
    for _ in 0..plan.rounds {
        durable.push(match &subject.etcd {
            Some(etcd) => machine::etcd_write(etcd).await,
            None => tokio::task::spawn_blocking(machine::sync).await.unwrap(),
        });
        trips.push(machine::round_trip(subject).await);
        let args = ["--work", "handoff", "--seconds", SECONDS];
        found.push(handoffs(&subject.measured(&args).await));
    }
    let [found, durable, trip] = [found, durable, trips].map(|rounds| Steps::median(&rounds));
    let step = if subject.etcd.is_some() { "a write to etcd" } else { "write and fdatasync" };
    let row = |n: usize, time: fn(&Steps) -> Duration| {
        let [found, durable, trip] = [&found, &durable, &trip].map(time);
        let limit = (durable + trip).mul_f64(FACTORS[n]);
        let text = format!("{} ({step} {}, round trip {})", ms(found), ms(durable), ms(trip));
        Row::new(ROWS[n], subject, (format!("≤ {}", ms(limit)), text), found <= limit)
    };
    vec![row(0, |steps| steps.p50), row(1, |steps| steps.p99)]
}

/// Queues of both lengths by turns.
pub(crate) async fn queue(subject: &Subject, plan: &Plan) -> Vec<Row> {
    let (mut short, mut long) = (vec![], vec![]);
    for _ in 0..plan.rounds {
        let queue = ["--work", "queue", "--seconds", SECONDS];
        let args = [&queue[..], &["--workers", "10"]].concat();
        short.push(handoffs(&subject.measured(&args).await));
        let args = [&queue[..], &["--workers", "100000", "--conns", "20"]].concat();
        long.push(handoffs(&subject.measured(&args).await));
    }
    let [short, long] = [short, long].map(|rounds| Steps::median(&rounds).p99);
    let limit = short.mul_f64(1.5);
    let found = format!("{}, {} where it is 10 deep", ms(long), ms(short));
    vec![Row::new(QUEUE, subject, (format!("≤ {}", ms(limit)), found), long <= limit)]
}
