//! The sidecar: what it serves over HTTP to an app in any language, and what it runs for it.

mod app;
mod elections;
mod label;
mod locks;

use std::{path::PathBuf, process::Stdio, time::Duration};

use integration_tests::{daemon::lockd_binary, eventually};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

use crate::world::{SOON, World};

/// A TTL so short that a leadership that is not renewed is soon over.
const TTL: Duration = Duration::from_secs(3);

/// A sidecar that runs, and the folder in which its commands write. Killed when dropped.
pub(crate) struct Sidecar {
    child: Child,
    url: String,
    /// Where it serves probes.
    probes: Option<String>,
    /// Where it answers as another program did.
    compat: Option<String>,
    dir: TempDir,
}

/// What it has answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) body: String,
}

impl Answer {
    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl Sidecar {
    /// A candidate of this name in the election `e`.
    async fn candidate(world: &World, name: &str, args: &[&str]) -> Self {
        let ttl = format!("{}s", TTL.as_secs());
        let own = ["--election", "e", "--identity", name, "--ttl", &ttl];
        Self::start(world, &[&own, args].concat()).await
    }

    fn command(world: &World, args: &[&str]) -> Command {
        let addrs: Vec<_> = world.daemons.iter().map(integration_tests::Daemon::url).collect();
        let mut command = Command::new(lockd_binary());
        command
            .args(["sidecar", "--listen", "127.0.0.1:0", "--addr", &addrs.join(",")])
            .args(args)
            .env("LOCKD_LOG", "error")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// What a sidecar says that can't start as it was asked to, and ends with this code.
    async fn refused(world: &World, code: i32, args: &[&str]) -> String {
        let ended = Self::command(world, args).stderr(Stdio::piped()).output();
        let ended = tokio::time::timeout(SOON, ended).await.expect("it does not start").unwrap();
        assert_eq!(ended.status.code(), Some(code), "{ended:?}");
        String::from_utf8(ended.stderr).unwrap()
    }

    pub(crate) async fn start(world: &World, args: &[&str]) -> Self {
        Self::start_with(world, args, &[]).await
    }

    /// One that lockd has answered.
    async fn ready(world: &World, args: &[&str]) -> Self {
        let sidecar = Self::start(world, args).await;
        sidecar.answers("/readyz", 200).await;
        sidecar
    }

    async fn start_with(world: &World, args: &[&str], env: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Self::command(world, args);
        let mut child = command.envs(env.iter().copied()).current_dir(dir.path()).spawn().unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = said.next_line().await.unwrap().expect("it says where it listens");
        let at = |what: &str| {
            let found = line.split(' ').find_map(|word| word.strip_prefix(what)?.strip_prefix('='));
            found.map(str::to_owned)
        };
        let url = format!("http://{}", at("http").expect("an address"));
        Self { child, url, probes: at("probes"), compat: at("compat"), dir }
    }

    async fn ask(&self, method: reqwest::Method, path: &str) -> Answer {
        let request = reqwest::Client::new().request(method, format!("{}{path}", self.url));
        let response = request.send().await.unwrap();
        let code = response.status().as_u16();
        Answer { code, body: response.text().await.unwrap() }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask(reqwest::Method::GET, path).await
    }

    async fn post(&self, path: &str) -> Answer {
        self.ask(reqwest::Method::POST, path).await
    }

    /// Waits until a path is answered with this code.
    async fn answers(&self, path: &str, code: u16) -> Answer {
        eventually(&format!("{path} is answered with {code}"), SOON, async || {
            let answer = self.get(path).await;
            if answer.code == code { Ok(answer) } else { Err(answer) }
        })
        .await
    }

    /// Waits until it leads, and says by which token.
    async fn leads(&self) -> u64 {
        let answer = self.answers("/leader", 200).await.json();
        answer["token"].as_str().unwrap().parse().unwrap()
    }

    fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.path(file)).unwrap_or_default()
    }

    /// Waits until a file that its commands write is this.
    async fn writes(&self, file: &str, text: &str) {
        eventually(&format!("{file} is {text:?}"), SOON, async || {
            let found = self.read(file);
            if found == text { Ok(()) } else { Err(found) }
        })
        .await;
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Waits until it has ended, and says by which code.
    async fn ended(&mut self) -> Option<i32> {
        let ended = tokio::time::timeout(SOON, self.child.wait()).await;
        ended.expect("the sidecar ends").unwrap().code()
    }
}
