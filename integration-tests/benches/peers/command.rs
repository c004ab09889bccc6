//! A command that runs under a lock, from its start to its end, beside `flock`.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use integration_tests::daemon::lockd_binary;

use crate::{
    report::{Row, ms},
    subject::Subject,
};

pub(crate) const ROW: &str = "`lockd lock x -- true`, whole process";

const RUNS: usize = 50;

/// What `lockd lock` may take beyond a fifth more than `flock`.
const ALLOWANCE: Duration = Duration::from_millis(10);

pub(crate) async fn whole(subject: &Subject) -> Vec<Row> {
    let url = subject.daemon.url();
    let (ours, theirs) = tokio::task::spawn_blocking(move || by_turns(&url)).await.unwrap();
    let limit = theirs.mul_f64(1.2) + ALLOWANCE;
    let found = format!("{}, `flock x true` {}", ms(ours), ms(theirs));
    vec![Row::new(ROW, subject, (format!("≤ {}", ms(limit)), found), ours <= limit)]
}

/// The medians of both.
fn by_turns(url: &str) -> (Duration, Duration) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = dir.path().join("x").to_str().unwrap().to_owned();
    let (mut ours, mut theirs) = (vec![], vec![]);
    for _ in 0..RUNS {
        ours.push(run(&lockd_binary(), &["lock", "--addr", url, "x", "--", "true"]));
        theirs.push(run(Path::new("flock"), &[&file, "true"]));
    }
    (median(ours), median(theirs))
}

fn run(program: &Path, args: &[&str]) -> Duration {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null());
    let start = Instant::now();
    let status = command.status().unwrap();
    let took = start.elapsed();
    assert!(status.success(), "{}: {status}", program.display());
    took
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
