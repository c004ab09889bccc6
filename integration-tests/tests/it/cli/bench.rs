//! `lockd bench` measures a running daemon, and leaves nothing there.

use super::*;

#[tokio::test]
async fn each_work_is_measured_and_leaves_nothing() {
    let scene = Scene::new().await;
    let works = [
        ("uncontended", "pair"),
        ("contended", "handoff"),
        ("handoff", "handoff"),
        ("queue", "handoff"),
        ("sessions", "opened"),
        ("observe", "observed_by_all"),
    ];
    for (work, time) in works {
        let args = ["bench", "--work", work, "--workers", "4", "--seconds", "1", "-o", "json"];
        let said = scene.run(&args).await.exits(0).stdout;
        let said: Value = serde_json::from_str(&said).unwrap();
        assert_eq!((&said["kind"], &said["work"]), (&"Bench".into(), &work.into()));
        let times = &said["times"][time];
        assert!(times["count"].as_u64().unwrap() > 0, "{said}");
        let [p50, p99, max] = ["p50Ns", "p99Ns", "maxNs"].map(|name| times[name].as_u64().unwrap());
        // Nothing goes to a server and back in less.
        assert!(10_000 < p50 && p50 <= p99 && p99 <= max, "{said}");
        assert_eq!(scene.run(&["ls", "bench/"]).await.exits(0).stdout, "");
    }
}

#[tokio::test]
async fn a_rate_is_kept() {
    let scene = Scene::new().await;
    let args = ["bench", "--rate", "20", "--workers", "4", "--seconds", "2", "-o", "json"];
    let said = scene.run(&args).await.exits(0).stdout;
    let said: Value = serde_json::from_str(&said).unwrap();
    // Forty, and what a busy machine makes up for; unbounded it is a thousand.
    assert!(said["times"]["pair"]["count"].as_u64().unwrap() < 200, "{said}");
    assert_eq!((&said["unit"], &said["work"]), (&"pairs/s".into(), &"uncontended".into()));
}
