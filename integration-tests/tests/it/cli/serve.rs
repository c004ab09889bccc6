//! The daemon's own commands: `serve`, `dev` and `config`.

use std::{process::ExitStatus, time::Instant};

use super::*;

const PORTS: [&str; 4] = ["--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"];

/// A daemon that was started by hand, its output in files.
struct Started {
    process: Running,
    out: PathBuf,
    err: PathBuf,
}

impl Started {
    fn new(dir: &Path, args: &[&str], env: &[(&str, &str)]) -> Self {
        let (out, err) = (dir.join("out"), dir.join("err"));
        let mut command = lockd(args.iter().chain(&PORTS).copied());
        command.stdout(std::fs::File::create(&out).unwrap());
        command.stderr(std::fs::File::create(&err).unwrap());
        command.envs(env.iter().copied()).current_dir(dir);
        Self { process: Running(command.spawn().unwrap()), out, err }
    }

    async fn says(&self, what: &str) -> String {
        eventually(&format!("{what} is printed"), SOON, async || {
            let said = read(&self.out);
            if said.contains(what) { Ok(said) } else { Err(read(&self.err)) }
        })
        .await
    }

    async fn ended(mut self) -> ExitStatus {
        let ended = tokio::time::timeout(SOON, self.process.0.wait()).await;
        ended.expect("it ends").unwrap()
    }
}

#[tokio::test]
async fn serve_prints_one_line_and_ends_with_0_on_sigterm_and_sigint() {
    for signal in [Signal::TERM, Signal::INT] {
        let dir = tempfile::tempdir().unwrap();
        let daemon = Started::new(dir.path(), &["serve"], &[]);
        let said = daemon.says("lockd listening grpc=127.0.0.1:").await;
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(dir.path().join("lockd-data").is_dir());
        daemon.process.signal(signal);
        assert_eq!(daemon.ended().await.code(), Some(0));
    }
}

#[tokio::test]
async fn a_second_daemon_on_a_folder_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let first = Started::new(dir.path(), &["serve"], &[]);
    first.says("listening").await;
    let mut second = lockd(["serve"].iter().chain(&PORTS).copied());
    second.current_dir(dir.path());
    let ended = Ended::of(second).await;
    assert!(ended.code > 0, "{ended:?}");
    assert!(ended.stderr.contains(&first.process.0.id().unwrap().to_string()), "{ended:?}");
}

#[tokio::test]
async fn a_taken_port_is_an_error_that_names_the_flag() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let dir = tempfile::tempdir().unwrap();
    for flag in ["--listen", "--http-listen"] {
        let mut command = lockd(["serve", flag, &address]);
        let other = if flag == "--listen" { "--http-listen" } else { "--listen" };
        command.args([other, "127.0.0.1:0"]).current_dir(dir.path());
        let ended = Ended::of(command).await;
        assert!(ended.code > 0 && ended.stderr.contains(flag), "{ended:?}");
    }
}

#[tokio::test]
async fn a_second_signal_does_not_wait_for_the_drain() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Started::new(dir.path(), &["serve", "--drain", "60s"], &[]);
    let said = daemon.says("listening").await;
    let grpc = said.split("grpc=").nth(1).unwrap().split(' ').next().unwrap();
    // A stream on which nothing is said is in flight for 10 s, and holds up the drain.
    let mut raw = crate::world::Raw::connect(&format!("http://{grpc}")).await;
    let mut sessions = raw.sessions.clone();
    let silent = tokio::spawn(async move { sessions.attach(tokio_stream::pending()).await });
    // On the same connection, so that the stream is there when this is answered.
    raw.open(Duration::from_secs(30)).await;
    daemon.process.signal(Signal::TERM);
    let began = Instant::now();
    eventually("the first signal is noted", SOON, async || {
        read(&daemon.err).contains("signalled to stop")
    })
    .await;
    daemon.process.signal(Signal::TERM);
    daemon.ended().await;
    assert!(began.elapsed() < SOON / 2, "{:?}", began.elapsed());
    assert!(silent.await.unwrap().is_err());
}

#[tokio::test]
async fn dev_warns_and_teaches() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Started::new(dir.path(), &["dev"], &[]);
    let said = daemon.says("lockd lock demo -- sh -c 'echo $LOCKD_FENCING_TOKEN'").await;
    assert!(said.contains("memory"), "{said}");
    let export = said.lines().find_map(|line| line.trim().strip_prefix("export LOCKD_ADDR="));
    let mut lock = lockd(["lock", "demo", "-c", "echo $LOCKD_FENCING_TOKEN"]);
    lock.env("LOCKD_ADDR", export.expect("the line to paste"));
    let token = Ended::of(lock).await.exits(0).stdout;
    assert!(token.trim().parse::<u64>().is_ok_and(|token| token > 0), "{token}");
    assert!(!dir.path().join("lockd-data").exists());
    daemon.process.signal(Signal::TERM);
    assert_eq!(daemon.ended().await.code(), Some(0));
}

#[tokio::test]
async fn config_shows_each_layer() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("lockd.toml");
    std::fs::write(&file, "drain = '3s'\nname = 'of-the-file'").unwrap();
    let mut command = lockd(["config", "--log", "debug", "-o", "json", "--config"]);
    command.arg(&file).env("LOCKD_NAME", "of-the-environment");
    let shown = Ended::of(command).await.exits(0).json();
    let values = shown["values"].as_array().unwrap();
    let row = |key: &str| {
        let row = values.iter().find(|row| row["key"] == key).unwrap();
        (row["value"].as_str().unwrap().to_owned(), row["from"].as_str().unwrap().to_owned())
    };
    assert_eq!(row("log"), ("debug".to_owned(), "flag (--log)".to_owned()));
    let from_env = "environment (LOCKD_NAME)".to_owned();
    assert_eq!(row("name"), ("of-the-environment".to_owned(), from_env));
    assert_eq!(row("drain").0, "3s");
    assert!(row("drain").1.ends_with("lockd.toml"));
    assert_eq!(row("store"), ("embedded".to_owned(), "default".to_owned()));
}

/// A password of digits is a text all the same, and is never shown.
#[tokio::test]
async fn a_password_is_not_shown() {
    let mut command =
        lockd(["config", "--store", "etcd", "--etcd-endpoints", "http://127.0.0.1:1"]);
    command.args(["--etcd-user", "root", "-o", "table"]).env("LOCKD_ETCD_PASSWORD", "31415926");
    let ended = Ended::of(command).await.exits(0);
    assert!(ended.stdout.contains("***") && !ended.stdout.contains("31415926"), "{ended:?}");
}

#[tokio::test]
async fn a_misspelt_variable_is_an_error_and_those_of_kubernetes_are_not() {
    let mut misspelt = lockd(["config"]);
    misspelt.env("LOCKD_DATA_DRI", "/tmp");
    let ended = Ended::of(misspelt).await.exits(78);
    assert!(ended.stderr.contains("did you mean LOCKD_DATA_DIR?"), "{ended:?}");
    let mut unknown = lockd(["config"]);
    unknown.env("LOCKD_DEADLINE_PROPAGATION", "yes");
    let ended = Ended::of(unknown).await.exits(78);
    assert!(ended.stderr.contains("set it to off, observe or on"), "{ended:?}");
    // A Service named lockd puts these into every pod of its namespace.
    let mut pod = lockd(["config"]);
    pod.env("LOCKD_SERVICE_HOST", "10.0.0.1").env("LOCKD_SERVICE_PORT", "7420");
    pod.env("LOCKD_SERVICE_PORT_GRPC", "7420").env("LOCKD_PORT", "tcp://10.0.0.1:7420");
    pod.env("LOCKD_PORT_7420_TCP", "tcp://10.0.0.1:7420").env("LOCKD_PORT_7420_TCP_PROTO", "tcp");
    Ended::of(pod).await.exits(0);
}
