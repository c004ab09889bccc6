//! The command line: the real binary, real children, real signals.

mod bench;
mod child;
mod exit_codes;
mod fence;
mod formats;
mod loss;
mod parallel;
mod primitives;
mod report;
mod restore;
mod serve;
mod terminal;
mod waiting;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use integration_tests::{Daemon, daemon::lockd_binary, eventually};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::world::{SOON, World};

/// `lockd` with these arguments, and no `LOCKD_*` but what the test adds. Killed when dropped.
fn lockd<A: Into<OsString>>(args: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(lockd_binary());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("LOCKD_") {
            command.env_remove(name);
        }
    }
    command.args(args.into_iter().map(Into::into));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// A world, and a folder for what its commands write.
struct Scene {
    world: World,
    dir: TempDir,
}

impl Scene {
    async fn new() -> Self {
        Self::of(World::embedded().await)
    }

    fn of(world: World) -> Self {
        Self { world, dir: tempfile::tempdir().unwrap() }
    }

    fn daemon(&mut self) -> &mut Daemon {
        self.world.first()
    }

    /// All replicas.
    fn addrs(&self) -> String {
        self.world.daemons.iter().map(Daemon::url).collect::<Vec<_>>().join(",")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `lockd` that talks to the daemons, its working directory the test's folder.
    fn lockd<A: Into<OsString>>(&self, args: impl IntoIterator<Item = A>) -> Command {
        let mut command = lockd(args);
        command.env("LOCKD_ADDR", self.addrs()).current_dir(self.dir.path());
        command
    }

    async fn run(&self, args: &[&str]) -> Ended {
        Ended::of(self.lockd(args)).await
    }

    /// `lockd lock FLAGS NAME -- sh -c SCRIPT`, under way.
    fn locked(&self, flags: &[&str], name: &str, script: &str) -> Running {
        let args = [&["lock"], flags, &[name, "--", "sh", "-c", script]].concat();
        Running(self.lockd(args).spawn().unwrap())
    }

    /// The same, its command known to run: the script is to say so by `touch up`.
    async fn holding(&self, flags: &[&str], name: &str, script: &str) -> Running {
        let holder = self.locked(flags, name, script);
        self.appears("up").await;
        holder
    }

    /// `lockd get NAME -o json`.
    async fn get(&self, name: &str) -> Value {
        self.run(&["get", name, "-o", "json"]).await.json()
    }

    /// The token of the holder, once there is one.
    async fn token(&self, name: &str) -> String {
        eventually("the lock is held", SOON, async || {
            self.get(name).await["holder"]["token"].as_str().map(str::to_owned)
        })
        .await
    }

    async fn waiters(&self, name: &str) -> usize {
        self.get(name).await["waiters"].as_array().unwrap().len()
    }

    async fn appears(&self, file: &str) {
        let path = self.path(file);
        eventually(&format!("{file} is there"), SOON, async || path.exists()).await;
    }

    fn read(&self, file: &str) -> String {
        read(&self.path(file))
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

/// A `lockd` under way.
struct Running(Child);

impl Running {
    fn signal(&self, signal: Signal) {
        let pid = self.0.id().and_then(|pid| Pid::from_raw(pid.cast_signed())).unwrap();
        kill_process(pid, signal).unwrap();
    }

    async fn ended(self) -> Ended {
        let output = tokio::time::timeout(Duration::from_secs(60), self.0.wait_with_output());
        Ended::from(output.await.expect("lockd ends within a minute").unwrap())
    }
}

/// How a `lockd` ended, and what it said.
#[derive(Debug)]
struct Ended {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Ended {
    async fn of(mut command: Command) -> Self {
        Running(command.spawn().unwrap()).ended().await
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    #[track_caller]
    fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        self
    }
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        // lockd always ends by itself, never by a signal.
        let code = output.status.code().unwrap_or(-1);
        Self { code, stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }
}

/// Whether a process with this id runs; a zombie does not.
fn runs(pid: &str) -> bool {
    let stat = read(Path::new(&format!("/proc/{}/stat", pid.trim())));
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}
