//! What is printed, where, and in which format.

use super::*;

/// A holder with metadata, and one that waits.
async fn queue(scene: &Scene) -> (Running, Running) {
    let flags = ["--meta", "job=nightly", "--ttl", "30s"];
    let holder = scene.holding(&flags, "orders/1", "touch up; exec sleep 1000").await;
    let waiter = scene.locked(&[], "orders/1", "true");
    eventually("it waits", SOON, async || scene.waiters("orders/1").await == 1).await;
    (holder, waiter)
}

#[tokio::test]
async fn get_describes_the_holder_and_the_queue() {
    let scene = Scene::new().await;
    let (holder, waiter) = queue(&scene).await;
    let lock = scene.get("orders/1").await;
    assert_eq!((&lock["version"], &lock["name"]), (&1.into(), &"orders/1".into()));
    let entry = &lock["holder"];
    assert_eq!(entry["client"]["pid"], holder.0.id().unwrap());
    assert_eq!(entry["metadata"]["job"], "nightly");
    for number in ["token", "ageMs", "leaseRemainingMs"] {
        let text = entry[number].as_str().unwrap_or_else(|| panic!("{number} in {entry}"));
        text.parse::<u64>().unwrap();
    }
    assert_eq!(lock["waiters"][0]["client"]["pid"], waiter.0.id().unwrap());

    let table = scene.run(&["get", "orders/1", "-o", "table"]).await.exits(0).stdout;
    let token = entry["token"].as_str().unwrap();
    assert!(table.contains(token) && table.contains("TOKEN"), "{table}");
}

#[tokio::test]
async fn get_of_a_free_lock_says_so() {
    let scene = Scene::new().await;
    assert_eq!(scene.get("nobody/has").await["holder"], Value::Null);
    let ended = scene.run(&["get", "nobody/has", "-o", "table"]).await.exits(0);
    assert_eq!(ended.stdout, "");
    assert!(ended.stderr.contains("free"), "{ended:?}");
}

#[tokio::test]
async fn ls_prints_each_format() {
    let scene = Scene::new().await;
    let _queue = queue(&scene).await;
    let ls = async |format: &[&str]| {
        let args = [&["ls", "orders/"], format].concat();
        scene.run(&args).await.exits(0).stdout
    };
    assert_eq!(ls(&["-o", "name"]).await, "orders/1\n");
    let (piped, jsonl) = (ls(&[]).await, ls(&["-o", "jsonl"]).await);
    for lines in [&piped, &jsonl] {
        assert_eq!(lines.lines().count(), 1, "a line a lock when piped: {lines}");
        let lock: Value = serde_json::from_str(lines).unwrap();
        assert_eq!((&lock["version"], &lock["name"]), (&1.into(), &"orders/1".into()));
    }
    let document: Value = serde_json::from_str(&ls(&["-o", "json"]).await).unwrap();
    assert_eq!(document["items"][0]["name"], "orders/1");
    assert!(document["items"][0]["holder"]["token"].is_string());
    let (table, wide) = (ls(&["-o", "table"]).await, ls(&["-o", "wide"]).await);
    assert!(table.lines().next().unwrap().starts_with("NAME"), "{table}");
    assert!(!table.contains("job=nightly") && wide.contains("job=nightly"), "{wide}");
    assert_eq!(scene.run(&["ls", "invoices/", "-o", "name"]).await.exits(0).stdout, "");
}

#[tokio::test]
async fn namespaces_are_apart() {
    let scene = Scene::new().await;
    let _queue = queue(&scene).await;
    assert_eq!(scene.run(&["ls", "-N", "other"]).await.exits(0).stdout, "");
    let mut ls = scene.lockd(["ls", "-o", "name"]);
    ls.env("LOCKD_NAMESPACE", "other");
    assert_eq!(Ended::of(ls).await.exits(0).stdout, "");
}

#[tokio::test]
async fn watch_shows_what_is_there_and_what_changes() {
    let scene = Scene::new().await;
    let _queue = queue(&scene).await;
    let out = scene.path("events");
    let mut command = scene.lockd(["watch", "orders/"]);
    let watch = command.stdout(std::fs::File::create(&out).unwrap()).spawn().unwrap();
    let events = || -> Vec<Value> {
        let text = read(&out);
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    let sees = async |event: &str, name: Option<&str>| {
        eventually(&format!("{event} {name:?} is seen"), SOON, async || {
            events().iter().any(|seen| {
                seen["event"] == event && name.is_none_or(|name| seen["lock"]["name"] == name)
            })
        })
        .await;
    };
    sees("changed", Some("orders/1")).await;
    sees("snapshot-end", None).await;
    scene.run(&["lock", "orders/2", "--", "sleep", "0.3"]).await.exits(0);
    sees("changed", Some("orders/2")).await;
    sees("freed", Some("orders/2")).await;
    assert!(events().iter().all(|event| event["version"] == 1));
    drop(watch);
}

#[tokio::test]
async fn force_release_refuses_a_token_that_is_not_current() {
    let scene = Scene::new().await;
    let _queue = queue(&scene).await;
    let token = scene.token("orders/1").await;
    let args = ["force-release", "orders/1", "--token", "1", "--reason", "test"];
    let ended = scene.run(&args).await.exits(1);
    assert_eq!(ended.stdout, "");
    assert_eq!(scene.token("orders/1").await, token);
    let args = ["force-release", "orders/1", "--token", &token, "--reason", "test"];
    assert_eq!(scene.run(&args).await.exits(0).json()["token"], *token);
}

#[tokio::test]
async fn status_tells_how_the_daemon_is() {
    let scene = Scene::new().await;
    let _queue = queue(&scene).await;
    let status = scene.run(&["status"]).await.exits(0).json();
    assert_eq!((&status["version"], &status["ready"]), (&1.into(), &true.into()));
    assert_eq!((&status["store"], &status["waiters"]), (&"embedded".into(), &"1".into()));
}

#[tokio::test]
async fn a_reader_that_goes_away_is_no_panic() {
    let scene = Scene::new().await;
    let _queue = queue(&scene).await;
    let mut shell = Command::new("sh");
    shell.arg("-c").arg("\"$0\" ls -o json | true").arg(lockd_binary());
    shell.env("LOCKD_ADDR", scene.addrs()).stderr(Stdio::piped()).stdout(Stdio::piped());
    let ended = Ended::from(shell.output().await.unwrap());
    assert!(!ended.stderr.contains("panicked"), "{ended:?}");
}

/// What others put beside their entries must not drive the operator's terminal.
#[tokio::test]
async fn control_characters_of_others_are_not_printed() {
    let scene = Scene::new().await;
    let script = "touch up; exec sleep 1000";
    let _holder = scene.holding(&["--meta", "a=\u{1b}[31mred"], "demo", script).await;
    for args in [&["get", "demo", "-o", "table"], &["ls", "-o", "wide"] as &[&str]] {
        let ended = scene.run(args).await.exits(0);
        assert!(ended.stdout.contains("[31mred") && !ended.stdout.contains('\u{1b}'), "{ended:?}");
    }
}

#[tokio::test]
async fn there_is_a_manual_page_for_each_command() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("man1");
    Ended::of(lockd(["man".into(), folder.clone().into_os_string()])).await.exits(0);
    for page in ["lockd.1", "lockd-lock.1", "lockd-sidecar.1"] {
        let text = read(&folder.join(page));
        assert!(text.contains(".TH") && text.len() > 500, "{page}: {text}");
    }
}

#[tokio::test]
async fn completion_and_help_need_no_daemon() {
    for shell in ["bash", "zsh", "fish"] {
        let script = Ended::of(lockd(["completion", shell])).await.exits(0).stdout;
        assert!(script.contains("force-release"), "{shell}");
    }
    let help = Ended::of(lockd(["--help"])).await.exits(0).stdout;
    assert!(help.contains("lockd lock demo"), "{help}");
    let version = Ended::of(lockd(["--version"])).await.exits(0).stdout;
    assert!(version.starts_with("lockd "), "{version}");
}
