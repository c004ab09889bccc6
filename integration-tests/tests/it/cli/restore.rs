//! A log that was restored from a backup: refused where that can be seen, and gone on with by a flag.

use integration_tests::{Etcd, StoreKind, unique_prefix};

use super::*;
use crate::world::http_status;

/// Sessions of the default TTL, what another replica may have promised, and a busy machine.
const HOLD: Duration = Duration::from_secs(60);

/// What is said to a restore that can be seen.
const REFUSED: &str = "--accept-restored and a new name";

fn client<A: Into<OsString>>(daemon: &Daemon, args: impl IntoIterator<Item = A>) -> Command {
    let mut command = lockd(args);
    command.env("LOCKD_ADDR", daemon.url());
    command
}

/// Takes a lock, and returns its token.
async fn token(daemon: &Daemon) -> u64 {
    let lock = client(daemon, ["lock", "demo", "-c", "echo $LOCKD_FENCING_TOKEN"]);
    Ended::of(lock).await.exits(0).stdout.trim().parse().unwrap()
}

async fn holder(daemon: &Daemon) -> Value {
    Ended::of(client(daemon, ["get", "held", "-o", "json"])).await.json()["holder"].clone()
}

/// Holds a lock until it is killed.
async fn holding(daemon: &Daemon) -> Running {
    let running = Running(client(daemon, ["lock", "held", "--", "sleep", "600"]).spawn().unwrap());
    eventually("the lock is held", SOON, async || !holder(daemon).await.is_null()).await;
    running
}

async fn refused(args: &[&str]) -> String {
    let ports = ["--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"];
    Ended::of(lockd(["serve"].iter().chain(args).chain(&ports).copied())).await.exits(78).stderr
}

/// No session of before is there, nothing is granted for a time, and tokens go on far ahead.
async fn goes_on(daemon: &Daemon, last: u64) {
    assert!(holder(daemon).await.is_null(), "its session has ended");
    assert_eq!(http_status(daemon, "/readyz").await, Some(503));
    let ready = async || http_status(daemon, "/readyz").await == Some(200);
    eventually("it grants again", HOLD, ready).await;
    let next = token(daemon).await;
    assert!(next > last + (1 << 39), "{next} after {last}");
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[tokio::test]
async fn an_older_data_folder() {
    let dir = tempfile::tempdir().unwrap();
    let (data, backup) = (dir.path().join("data"), dir.path().join("backup"));
    let store = StoreKind::Embedded { dir: data.clone() };
    let mut daemon = Daemon::builder().store(store.clone()).start().await;
    let held = holding(&daemon).await;
    daemon.kill9().await;
    copy(&data, &backup);
    daemon.start_again().await;
    let last = token(&daemon).await;
    drop(held);
    daemon.kill9().await;
    // Parts of it beside newer ones.
    let newer = std::fs::read(data.join("mark")).unwrap();
    std::fs::remove_dir_all(&data).unwrap();
    copy(&backup, &data);
    std::fs::write(data.join("mark"), newer).unwrap();
    let text = refused(&["--data-dir", data.to_str().unwrap()]).await;
    assert!(text.contains(REFUSED), "{text}");
    std::fs::remove_dir_all(&data).unwrap();
    copy(&backup, &data);
    let restored = Daemon::builder().store(store).arg("--accept-restored").arg("2026-11-27");
    let mut restored = restored.start().await;
    // Not by a restart in between either.
    restored.restart().await;
    goes_on(&restored, last).await;
    // The name stays in the configuration, and accepts nothing a second time.
    restored.restart().await;
    let again = token(&restored).await;
    assert!(again < last + (1 << 41), "{again}");
}

#[tokio::test]
async fn an_etcd_from_a_snapshot() {
    let prefix = unique_prefix();
    let store = |etcd: &Etcd| {
        let endpoints = etcd.endpoints();
        StoreKind::Etcd { endpoints, prefix: prefix.clone() }
    };
    let lost = Etcd::builder().start().await;
    let daemon = Daemon::builder().store(store(&lost)).start().await;
    let _held = holding(&daemon).await;
    let snapshot = lost.snapshot().await;
    let last = token(&daemon).await;
    drop((daemon, lost));
    let etcd = Etcd::builder().restored(snapshot).start().await;
    let args = ["--store", "etcd", "--etcd-prefix", &prefix, "--etcd-endpoints", etcd.endpoint()];
    let text = refused(&args).await;
    assert!(text.contains(REFUSED), "{text}");
    let restored = Daemon::builder().store(store(&etcd)).arg("--accept-restored").arg("2026-11-27");
    let restored = restored.start().await;
    let live = async || http_status(&restored, "/startupz").await == Some(200);
    eventually("the log has been read", SOON, live).await;
    goes_on(&restored, last).await;
}
