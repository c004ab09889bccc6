//! How soon a change of an election reaches all that observe it.

use std::time::Duration;

use crate::{
    report::{Row, ms},
    subject::Subject,
};

pub(crate) const ROW: &str = "1,000 observers, from a change to the last of them, p99";

const LIMIT: Duration = Duration::from_millis(50);

pub(crate) async fn observe(subject: &Subject) -> Vec<Row> {
    let args = ["--work", "observe", "--workers", "1000", "--seconds", "5"];
    let report = subject.measured(&args).await;
    let times = &report["times"]["observed_by_all"];
    let [p50, p99] =
        ["p50Ns", "p99Ns"].map(|name| Duration::from_nanos(times[name].as_u64().unwrap()));
    let found = format!("{} (p50 {})", ms(p99), ms(p50));
    vec![Row::new(ROW, subject, (format!("≤ {}", ms(LIMIT)), found), p99 <= LIMIT)]
}
