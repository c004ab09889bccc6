//! The workers' processes: this program once more, so that a client is measured alone and many do not
//! share a core. A child says in lines what it has come to:
//!
//! ```text
//! ready                      it is connected, and waits for a line
//! begin                      the workers have warmed up: from here on it counts
//! end                        to here
//! done PAIRS NANOS CPU_NANOS
//! ```

use std::{
    io::BufRead as _,
    process::Stdio,
    time::{Duration, Instant},
};

use futures::future::join_all;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use crate::{
    contenders::Target,
    load::{Load, Workers},
    process::cpu,
    services,
};

/// What the arguments of a child begin with.
pub(crate) const ARGUMENT: &str = "client";

/// What a service has done under a load.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// Pairs a second.
    pub(crate) rate: f64,
    /// The client processes' CPU time for a pair.
    pub(crate) client_cpu: Duration,
    /// The daemon's, where it is lockd.
    pub(crate) daemon_cpu: Option<Duration>,
}

/// A process with workers.
struct Process {
    child: Child,
    start: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

/// What a process has done.
struct Done {
    pairs: u64,
    took: Duration,
    cpu: Duration,
    /// The CPU time that another process used meanwhile.
    daemon_cpu: Option<Duration>,
}

/// Has a service work under a load.
pub(crate) async fn measure(target: &Target, load: Load, time: Duration) -> Sample {
    let mut processes: Vec<_> =
        (0..load.processes()).map(|_| Process::spawn(target, load, time)).collect();
    for process in &mut processes {
        process.expect("ready").await;
    }
    for process in &mut processes {
        process.start.write_all(b"start\n").await.unwrap();
    }
    let daemon = target.daemon.filter(|_| load.processes() == 1);
    let done = join_all(processes.into_iter().map(|process| process.follow(daemon))).await;
    let pairs: u64 = done.iter().map(|done| done.pairs).sum();
    let each = |cpu: Duration| cpu.div_f64(pairs.max(1) as f64);
    Sample {
        rate: done.iter().map(|done| done.pairs as f64 / done.took.as_secs_f64()).sum(),
        client_cpu: each(done.iter().map(|done| done.cpu).sum()),
        daemon_cpu: done[0].daemon_cpu.map(each),
    }
}

impl Process {
    fn spawn(target: &Target, load: Load, time: Duration) -> Self {
        let numbers = [load.workers(), load.locks(), usize::try_from(time.as_millis()).unwrap()];
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([ARGUMENT, target.protocol, &target.addresses])
            .args(numbers.map(|number| number.to_string()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (start, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, start, lines: BufReader::new(stdout).lines() }
    }

    async fn next(&mut self) -> String {
        let line = self.lines.next_line().await.unwrap();
        line.expect("a client goes on until it is done: see what it has written")
    }

    async fn expect(&mut self, line: &str) {
        assert_eq!(self.next().await, line);
    }

    async fn follow(mut self, daemon: Option<u32>) -> Done {
        self.expect("begin").await;
        let before = daemon.map(cpu);
        self.expect("end").await;
        let after = daemon.map(cpu);
        let line = self.next().await;
        let numbers = line.strip_prefix("done ").unwrap().split(' ');
        let numbers: Vec<u64> = numbers.map(|number| number.parse().unwrap()).collect();
        assert!(self.child.wait().await.unwrap().success());
        Done {
            pairs: numbers[0],
            took: Duration::from_nanos(numbers[1]),
            cpu: Duration::from_nanos(numbers[2]),
            daemon_cpu: after.zip(before).map(|(after, before)| after - before),
        }
    }
}

/// What a child does.
pub(crate) async fn serve(job: &[String]) {
    let [protocol, addresses, workers, locks, millis] = job else {
        panic!("a client's job: {job:?}")
    };
    let number = |text: &String| text.parse::<usize>().unwrap();
    let time = Duration::from_millis(millis.parse().unwrap());
    let service = services::connect(protocol, addresses).await;
    let workers = Workers::prepare(service, number(workers), number(locks)).await;
    println!("ready");
    let mut line = String::new();
    // No line comes if the benchmark has been ended.
    if std::io::stdin().lock().read_line(&mut line).unwrap() == 0 {
        return;
    }
    let working = workers.begin();
    // Connections, caches and JIT compilers warm up before it counts.
    tokio::time::sleep(time / 4).await;
    println!("begin");
    let me = std::process::id();
    let (start, before, used) = (Instant::now(), working.pairs(), cpu(me));
    tokio::time::sleep(time).await;
    let (pairs, took, used) = (working.pairs() - before, start.elapsed(), cpu(me) - used);
    println!("end");
    working.end().await;
    println!("done {pairs} {} {}", took.as_nanos(), used.as_nanos());
}
