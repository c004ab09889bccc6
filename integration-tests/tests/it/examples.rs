//! The examples of the client crate run, as their first lines say.

use std::{path::PathBuf, process::Stdio, time::Duration};

use integration_tests::{Daemon, StoreKind, daemon::lockd_binary, eventually};
use tokio::process::Command;

use crate::world::{SOON, client_of};

/// The names of their sources.
fn examples() -> Vec<String> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../client/examples");
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    // What has a folder of its own is a service, and has a test of its own.
    let names =
        files.filter(|path| path.is_file()).map(|file| file.file_stem().unwrap().to_owned());
    names.map(|name| name.to_string_lossy().into_owned()).collect()
}

#[tokio::test]
async fn each_of_them_succeeds_and_says_something() {
    let dir = tempfile::tempdir().unwrap();
    let store = StoreKind::Embedded { dir: dir.path().join("data") };
    let daemon = Daemon::builder().store(store).start().await;
    let examples = examples();
    assert!(examples.len() >= 15, "{examples:?}");
    let mut running = tokio::task::JoinSet::new();
    for name in examples {
        let built = lockd_binary().parent().unwrap().join("examples").join(&name);
        assert!(built.exists(), "{} is not built: run `make test`", built.display());
        let mut example = Command::new(built);
        example.env("LOCKD_ADDR", daemon.url()).stdin(Stdio::null()).kill_on_drop(true);
        running.spawn(async move {
            let ended = tokio::time::timeout(Duration::from_secs(60), example.output()).await;
            let output = ended.unwrap_or_else(|_| panic!("{name} does not end")).unwrap();
            assert!(output.status.success(), "{name}: {output:?}");
            assert!(!output.stdout.is_empty(), "{name}: {output:?}");
        });
    }
    // One of them works until its lock is taken away.
    let client = client_of(&daemon.url(), Duration::from_secs(10)).await;
    let token = eventually("it works", SOON, async || {
        let found = client.get("examples/leader").await.ok()??;
        Some(found.holder()?.token)
    })
    .await;
    client.force_release("examples/leader", token, "enough").await.unwrap();
    while let Some(ended) = running.join_next().await {
        ended.unwrap();
    }
}
