//! The walls of ARCHITECTURE.md, the sizes of the house rules: held by reading the sources.

#![allow(clippy::unwrap_used, reason = "a source that can't be read ends the test")]

use std::{
    collections::{BTreeMap, BTreeSet},
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

/// The rooms of the daemon from the lowest to the highest, and which of those below it each may name.
const ROOMS: [(&str, &[&str]); 11] = [
    ("duration", &[]),
    ("record", &[]),
    ("telemetry", &[]),
    ("state", &["record"]),
    ("log", &["record", "telemetry"]),
    ("core", &["state", "log", "record", "telemetry"]),
    ("server", &["core", "state", "log", "record", "telemetry"]),
    ("serve", &["server", "core", "log", "telemetry"]),
    ("config", &["core", "log", "telemetry"]),
    ("sidecar", &["duration", "telemetry"]),
    ("cli", &["sidecar", "config", "serve", "log", "duration", "telemetry"]),
];

/// The room of a path below `lockd/src`: its first part.
fn room(path: &str) -> Option<&str> {
    path.strip_prefix("lockd/src/")?.split(['/', '.']).next()
}

/// The rooms that a line of code names, as `crate::ROOM` or in braces behind `crate::{`.
fn named(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let code = text.lines().filter(|line| !is_comment(line)).collect::<Vec<_>>().join("\n");
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(group) => found.extend(first_parts(group)),
            None => found.extend(
                rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().map(str::to_owned),
            ),
        }
    }
    found
}

/// The first part of each path in a group of imports.
fn first_parts(group: &str) -> Vec<String> {
    let (mut depth, mut parts, mut part) = (1, Vec::new(), String::new());
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => parts.push(std::mem::take(&mut part)),
            _ if depth == 1 => part.push(c),
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    parts.push(part);
    let first = |part: String| part.trim().split("::").next().unwrap_or_default().trim().to_owned();
    parts.into_iter().map(first).filter(|part| !part.is_empty()).collect()
}

#[test]
fn arrows_between_the_rooms_go_down_only() {
    let mut strays = Vec::new();
    for (path, text) in sources() {
        let Some(here) = room(&path) else { continue };
        let Some((_, allowed)) = ROOMS.iter().find(|(name, _)| *name == here) else { continue };
        for there in named(&text) {
            let is_room = ROOMS.iter().any(|(name, _)| *name == there);
            if is_room && there != here && !allowed.contains(&there.as_str()) {
                strays.push(format!("{path} names {there}"));
            }
        }
    }
    strays.dedup();
    assert!(strays.is_empty(), "{strays:#?}");
}

#[test]
fn there_is_no_circle_of_rooms() {
    for (place, (room, allowed)) in ROOMS.iter().enumerate() {
        for below in *allowed {
            let is_below = ROOMS[..place].iter().any(|(name, _)| name == below);
            assert!(is_below, "{room} may name {below} only if that stands before it");
        }
    }
}

/// A file and those in its folder are one node: a parent may name its own children, and they it.
#[test]
fn there_is_no_circle_of_files_in_the_client() {
    let mut names = BTreeMap::<String, BTreeSet<String>>::new();
    for (path, text) in sources() {
        let Some(inside) = path.strip_prefix("client/src/") else { continue };
        let node = inside.split(['/', '.']).next().unwrap_or_default().to_owned();
        // lib.rs re-exports what it has; a test may name anything.
        if node != "lib" && !inside.contains("tests") {
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            names.entry(node).or_default().extend(named(code));
        }
    }
    let nodes: BTreeSet<_> = names.keys().cloned().collect();
    for (node, all) in &mut names {
        let by_type = all.iter().find(|name| name.starts_with(char::is_uppercase));
        assert_eq!(by_type, None, "{node}: name a module, so that this test sees it");
        all.retain(|name| name != node && nodes.contains(name));
    }
    // A node that names no other is in no circle, nor is one that names only such nodes.
    while let Some((leaf, _)) = names.iter().find(|(_, all)| all.is_empty()) {
        let leaf = leaf.clone();
        names.remove(&leaf);
        for all in names.values_mut() {
            all.remove(&leaf);
        }
    }
    assert!(names.is_empty(), "a circle is in {names:#?}");
}

#[test]
fn every_source_is_in_a_room() {
    let outside = ["lib", "main"];
    for (path, _) in sources() {
        if let Some(room) = room(&path).filter(|room| !outside.contains(room)) {
            assert!(ROOMS.iter().any(|(name, _)| *name == room), "{path} is in no room");
        }
    }
}

#[test]
fn etcd_is_known_to_its_log_only() {
    only_in("etcd_client", "lockd/src", &["lockd/src/log/etcd"]);
}

#[test]
fn grpc_is_known_to_the_server_only() {
    let rooms = ["lockd/src/server", "lockd/src/serve.rs"];
    // Spans leave by gRPC, and etcd is reached by it.
    let others = ["lockd/src/telemetry/otlp.rs", "lockd/src/log/etcd"];
    only_in("tonic", "lockd/src", &[&rooms[..], &others].concat());
}

#[test]
fn the_client_is_known_to_the_commands_only() {
    // But for the layer by which every gRPC server keeps deadlines.
    let rooms = ["lockd/src/cli", "lockd/src/sidecar", "lockd/src/server.rs"];
    only_in("lockd_client", "lockd/src", &rooms);
}

#[test]
fn the_rules_know_no_clock_and_no_waiting() {
    let pure = |path: &str| {
        let rooms = ["lockd/src/state", "lockd/src/record"];
        let files = ["lockd/src/core/leases.rs", "lockd/src/core/timers.rs"];
        let test = path.contains("/tests");
        !test && (rooms.iter().any(|room| path.starts_with(room)) || files.contains(&path))
    };
    for (path, text) in sources().into_iter().filter(|(path, _)| pure(path)) {
        for what in ["async ", ".await", "Clock", "tokio", "metrics::", "tracing::"] {
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            let found =
                code.lines().filter(|line| !is_comment(line)).any(|line| line.contains(what));
            assert!(!found, "{path} is pure, and has {what:?}");
        }
    }
}

/// One noun, one type: a name that is declared twice means two things to a reader.
#[test]
fn a_type_name_is_declared_once() {
    let mut declared = BTreeMap::<String, Vec<String>>::new();
    let daemon = |path: &str| path.starts_with("lockd/src/") && !path.contains("/tests");
    for (path, text) in sources().into_iter().filter(|(path, _)| daemon(path)) {
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for name in code.lines().filter_map(declaration) {
            declared.entry(name.to_owned()).or_default().push(path.clone());
        }
    }
    declared.retain(|name, paths| paths.len() > 1 && !EACH_HAS_ITS_OWN.contains(&name.as_str()));
    assert!(declared.is_empty(), "{declared:#?}");
}

/// Names that every file of a kind has: the flags of a command.
const EACH_HAS_ITS_OWN: [&str; 1] = ["Args"];

fn declaration(line: &str) -> Option<&str> {
    let line = match line.split_once(") ") {
        Some((visibility, rest)) if visibility.starts_with("pub(") => rest,
        _ => line.strip_prefix("pub ").unwrap_or(line),
    };
    let kinds = ["struct ", "enum ", "trait ", "type "];
    let rest = kinds.iter().find_map(|kind| line.strip_prefix(kind))?;
    rest.split(|c: char| !c.is_alphanumeric()).next()
}

#[test]
fn retries_go_through_one_module() {
    only_in("backoff::", "", &["proto/src/retry.rs", "integration-tests/tests/tidy.rs"]);
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
