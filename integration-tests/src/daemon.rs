//! The real `lockd` binary as a child of the test: started, killed, terminated, started again.
//!
//! It is known by its handle alone, so no other process can be hit. Its output goes to files, and a
//! test that panics shows the end of what it wrote to stderr.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::eventually;

/// How long the daemon may take to say where it listens.
const START: Duration = Duration::from_secs(20);
/// How long it may take to end after SIGTERM: its drain of 10 s and some.
const END: Duration = Duration::from_secs(30);
/// How much of stderr a failed test shows.
const SHOWN_LINES: usize = 60;

/// Where the daemon under test keeps its state.
#[derive(Clone, Debug)]
pub enum StoreKind {
    /// The embedded store, in this folder.
    Embedded {
        /// `--data-dir`
        dir: PathBuf,
    },
    /// An etcd cluster.
    Etcd {
        /// `--etcd-endpoints`
        endpoints: Vec<String>,
        /// `--etcd-prefix`: what keeps tests on one etcd apart.
        prefix: String,
    },
}

/// A running `lockd serve`. It is killed with its value.
pub struct Daemon {
    builder: DaemonBuilder,
    child: Child,
    grpc: SocketAddr,
    http: SocketAddr,
    output: TempDir,
}

/// What a [`Daemon`] is started with.
#[derive(Clone, Default)]
#[must_use = "nothing runs before start()"]
pub struct DaemonBuilder {
    program: Option<PathBuf>,
    store: Option<StoreKind>,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
}

impl Daemon {
    /// A daemon to be described.
    pub fn builder() -> DaemonBuilder {
        DaemonBuilder::default()
    }

    /// Where it serves gRPC.
    pub fn grpc_addr(&self) -> SocketAddr {
        self.grpc
    }

    /// Where it serves HTTP.
    pub fn http_addr(&self) -> SocketAddr {
        self.http
    }

    /// The gRPC address as clients take it.
    pub fn url(&self) -> String {
        format!("http://{}", self.grpc)
    }

    /// Its process id.
    ///
    /// # Panics
    /// When it has ended.
    pub fn pid(&self) -> u32 {
        self.child.id().expect("the daemon runs")
    }

    /// What it has written to stderr since it was last started.
    pub fn stderr(&self) -> String {
        read(&self.output.path().join("stderr"))
    }

    /// `kill -9`, and waits until it is gone.
    ///
    /// # Panics
    /// When it cannot be waited for.
    pub async fn kill9(&mut self) {
        self.child.kill().await.expect("the daemon is our child");
    }

    /// Sends SIGTERM, waits for the end, and returns the exit status.
    ///
    /// # Panics
    /// When it has ended before, or does not end in time.
    pub async fn sigterm(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.ended().await
    }

    /// Waits until it ends by itself.
    ///
    /// # Panics
    /// When it does not end in time.
    pub async fn ended(&mut self) -> ExitStatus {
        let ended = timeout(END, self.child.wait()).await;
        ended.expect("lockd ends within 30 s").expect("the daemon is our child")
    }

    /// Freezes it (`SIGSTOP`): its connections stay open and nothing answers.
    ///
    /// # Panics
    /// When it has ended.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on (`SIGCONT`).
    ///
    /// # Panics
    /// When it has ended.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Kills it, if it still runs, and starts it again: same store, same ports.
    ///
    /// # Panics
    /// When it does not come up.
    pub async fn restart(&mut self) {
        self.kill9().await;
        self.start_again().await;
    }

    /// Kills it and starts another program in its place, with one more variable in its environment.
    ///
    /// # Panics
    /// When it does not come up.
    pub async fn restart_as(&mut self, program: PathBuf, name: &str, value: &OsStr) {
        self.builder.program = Some(program);
        self.builder.env.push((name.into(), value.into()));
        self.restart().await;
    }

    /// Starts an ended daemon again: same store, same ports.
    ///
    /// # Panics
    /// When it still runs or does not come up.
    pub async fn start_again(&mut self) {
        assert!(
            self.child.id().is_none(),
            "the daemon still runs: end it with kill9() or sigterm() first"
        );
        self.child = self.builder.spawn(self.output.path(), self.grpc, self.http);
        (self.grpc, self.http) = listening(&mut self.child, self.output.path()).await;
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("the daemon is our child");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", last_words(self.output.path()));
        }
        // The child was spawned with kill_on_drop.
    }
}

impl DaemonBuilder {
    /// Where it keeps its state; without this the test must say so by [`Self::arg`].
    pub fn store(mut self, store: StoreKind) -> Self {
        self.store = Some(store);
        self
    }

    /// A further argument of `lockd serve`.
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// A variable of its environment, which has no `LOCKD_*` otherwise.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Starts it on free ports and waits until it listens.
    ///
    /// # Panics
    /// When it ends or says nothing instead; the message has what it wrote to stderr.
    pub async fn start(self) -> Daemon {
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        let output = tempfile::tempdir().expect("a temporary folder");
        let mut child = self.spawn(output.path(), free, free);
        let (grpc, http) = listening(&mut child, output.path()).await;
        Daemon { builder: self, child, grpc, http, output }
    }

    fn spawn(&self, output: &Path, grpc: SocketAddr, http: SocketAddr) -> Child {
        let file = |name| File::create(output.join(name)).expect("a file for the output");
        let mut command = Command::new(self.program.clone().unwrap_or_else(lockd_binary));
        for (name, _value) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("LOCKD_") {
                command.env_remove(name);
            }
        }
        command
            .arg("serve")
            .args(["--listen", &grpc.to_string(), "--http-listen", &http.to_string()])
            .args(self.store.iter().flat_map(StoreKind::args))
            .args(&self.args)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(file("stdout"))
            .stderr(file("stderr"))
            .kill_on_drop(true)
            .spawn()
            .expect("lockd can be started")
    }
}

impl StoreKind {
    fn args(&self) -> Vec<OsString> {
        match self {
            Self::Embedded { dir } => vec!["--data-dir".into(), dir.into()],
            Self::Etcd { endpoints, prefix } => vec![
                "--store".into(),
                "etcd".into(),
                "--etcd-endpoints".into(),
                endpoints.join(",").into(),
                "--etcd-prefix".into(),
                prefix.into(),
            ],
        }
    }
}

/// The `lockd` that was built beside this test: `target/<profile>/lockd`, or what `LOCKD_BIN` names.
///
/// # Panics
/// When there is none.
pub fn lockd_binary() -> PathBuf {
    let beside = || {
        let test = std::env::current_exe().expect("the path of this test");
        // target/<profile>/deps/<test>
        test.ancestors().nth(2).expect("a target folder").join("lockd")
    };
    let path = std::env::var_os("LOCKD_BIN").map_or_else(beside, PathBuf::from);
    assert!(
        path.is_file(),
        "{} is missing: run 'make test', or 'cargo build -p lockd' first",
        path.display()
    );
    path
}

/// Waits for the line by which the daemon says that it accepts:
/// `lockd listening grpc=127.0.0.1:7420 http=127.0.0.1:7421`.
async fn listening(child: &mut Child, output: &Path) -> (SocketAddr, SocketAddr) {
    eventually("lockd listens", START, async || {
        if let Some(status) = child.try_wait().expect("the daemon is our child") {
            panic!("lockd ended ({status}) before it listened\n{}", last_words(output));
        }
        let said = read(&output.join("stdout"));
        said.lines().find_map(parse_listening).ok_or_else(|| last_words(output))
    })
    .await
}

fn parse_listening(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    let (grpc, http) = line.strip_prefix("lockd listening grpc=")?.split_once(" http=")?;
    Some((grpc.parse().ok()?, http.trim_end().parse().ok()?))
}

fn last_words(output: &Path) -> String {
    let stderr = read(&output.join("stderr"));
    let from = stderr.lines().count().saturating_sub(SHOWN_LINES);
    let shown: Vec<&str> = stderr.lines().skip(from).collect();
    format!("--- the end of lockd's stderr ---\n{}\n---", shown.join("\n"))
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_ports_from_the_line_that_the_daemon_prints() {
        let found = parse_listening("lockd listening grpc=127.0.0.1:7420 http=127.0.0.1:7421");
        assert_eq!(found, Some((([127, 0, 0, 1], 7420).into(), ([127, 0, 0, 1], 7421).into())));
        assert_eq!(parse_listening("lockd listening grpc=127.0.0.1:7420"), None);
    }
}
