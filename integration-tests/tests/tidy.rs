//! The walls of ARCHITECTURE.md, the sizes of the house rules: held by reading the sources.

#![allow(clippy::unwrap_used, reason = "a source that can't be read ends the test")]

use std::{
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every source file of ours, with its path from the root.
fn sources() -> Vec<(String, String)> {
    let mut folders = vec![root()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && !name.starts_with('.') && name != "target" {
                folders.push(path);
            } else if name.ends_with(".rs") {
                let relative = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
                found.push((relative, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(found.len() > 50, "the sources were found");
    found
}

/// Fails for every file that names `what` outside the rooms where it belongs.
fn only_in(what: &str, within: &str, rooms: &[&str]) {
    let strays: Vec<_> = sources()
        .into_iter()
        .filter(|(path, _)| path.starts_with(within))
        .filter(|(path, _)| !rooms.iter().any(|room| path.starts_with(room)))
        .filter(|(_, text)| text.lines().any(|line| !is_comment(line) && line.contains(what)))
        .map(|(path, _)| path)
        .collect();
    assert!(strays.is_empty(), "{what} belongs into {rooms:?} only, and is in {strays:?}");
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with("//")
}

#[test]
fn etcd_is_known_to_its_store_only() {
    only_in("etcd_client", "lockd/src", &["lockd/src/store/etcd"]);
}

#[test]
fn grpc_is_known_to_its_layer_only() {
    let layer = ["lockd/src/grpc", "lockd/src/serve.rs", "lockd/src/health.rs"];
    // Spans leave by gRPC too.
    only_in("tonic", "lockd/src", &[&layer[..], &["lockd/src/otlp.rs"]].concat());
}

#[test]
fn the_client_is_known_to_the_commands_only() {
    // But for the layer by which every gRPC server keeps deadlines.
    only_in("lockd_client", "lockd/src", &["lockd/src/cli", "lockd/src/grpc.rs"]);
}

#[test]
fn retries_go_through_one_module() {
    only_in("backoff::", "", &["proto/src/retry.rs", "integration-tests/tests/tidy.rs"]);
}

#[test]
fn the_rules_know_no_clock_and_no_waiting() {
    for path in [
        "lockd/src/queue.rs",
        "lockd/src/mode.rs",
        "lockd/src/barrier.rs",
        "lockd/src/deadlock.rs",
        "lockd/src/requests.rs",
        "lockd/src/requests/enqueue.rs",
        "lockd/src/requests/leave.rs",
        "lockd/src/batcher/plan.rs",
    ] {
        let text = fs::read_to_string(root().join(path)).unwrap();
        for what in ["async ", ".await", "clock", "tokio"] {
            let found =
                text.lines().filter(|line| !is_comment(line)).any(|line| line.contains(what));
            assert!(!found, "{path} is pure, and has {what:?}");
        }
    }
}

#[test]
fn no_file_is_two_rooms_in_one() {
    for (path, text) in sources() {
        let lines = text.lines().count();
        assert!(lines <= 600, "{path} has {lines} lines: divide it");
        assert!(!path.ends_with("/mod.rs"), "{path}: name it after its folder");
    }
}

#[test]
fn nothing_is_left_for_later() {
    for (path, text) in sources().into_iter().filter(|(path, _)| !path.ends_with("tidy.rs")) {
        for what in ["todo!(", "unimplemented!(", "#[ignore"] {
            assert!(!text.contains(what), "{path} has {what}");
        }
    }
}
