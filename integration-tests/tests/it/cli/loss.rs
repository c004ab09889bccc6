//! A command never outlives its lock, and exit code 79 reports the loss to the caller.

use std::time::Instant;

use super::*;

const RELEASE: [&str; 4] = ["force-release", "demo", "--reason", "test"];

/// Ignores SIGTERM and says when it came.
const STUBBORN: &str =
    "trap 'touch told' TERM; echo $$ > pid; touch up; while :; do sleep 0.05; done";

async fn force_release(scene: &Scene) {
    let token = scene.token("demo").await;
    scene.run(&[&RELEASE as &[&str], &["--token", &token]].concat()).await.exits(0);
}

#[tokio::test]
async fn a_forced_release_stops_the_command_whatever_it_returns() {
    let scene = Scene::new().await;
    let script = "trap 'touch told; exit 0' TERM; touch up; while :; do sleep 0.05; done";
    let holder = scene.holding(&[], "demo", script).await;
    force_release(&scene).await;
    let ended = holder.ended().await.exits(79);
    assert!(ended.stderr.contains("test"), "the operator's reason: {ended:?}");
    assert!(scene.path("told").exists());
}

#[tokio::test]
async fn a_command_that_does_not_stop_is_killed_after_the_grace() {
    let scene = Scene::new().await;
    let holder = scene.holding(&["--grace", "1s"], "demo", STUBBORN).await;
    force_release(&scene).await;
    let released = Instant::now();
    scene.appears("told").await;
    holder.ended().await.exits(79);
    let took = released.elapsed();
    assert!((500..5000).contains(&took.as_millis()), "{took:?}");
}

#[tokio::test]
async fn the_signal_to_stop_can_be_chosen() {
    let scene = Scene::new().await;
    let script =
        "trap 'touch told; exit 0' INT; trap 'exit 1' TERM; touch up; while :; do sleep 0.05; done";
    let args = ["lock", "--signal", "SIGINT", "demo", "--", "bash", "-c", script];
    let holder = Running(scene.lockd(args).spawn().unwrap());
    scene.appears("up").await;
    force_release(&scene).await;
    holder.ended().await.exits(79);
    assert!(scene.path("told").exists());
}

#[tokio::test]
async fn the_whole_group_is_killed() {
    let scene = Scene::new().await;
    // The command itself ends on SIGTERM; what it started ignores it.
    let script =
        "sh -c 'trap \"\" TERM; echo $$ > pid; touch up; while :; do sleep 0.05; done' & wait";
    let holder = scene.holding(&["--grace", "500ms"], "demo", script).await;
    force_release(&scene).await;
    holder.ended().await.exits(79);
    let pid = scene.read("pid");
    eventually("the grandchild is gone", SOON, async || !runs(&pid)).await;
}

/// The grace belongs to all of the group, not only to the command that leads it.
#[tokio::test]
async fn what_the_command_started_has_its_grace_too() {
    let scene = Scene::new().await;
    let script = "sh -c 'trap \"sleep 0.5; touch tidied; exit\" TERM; touch up; while :; do sleep 0.05; done' & wait";
    let holder = scene.holding(&["--grace", "5s", "--ttl", "30s"], "demo", script).await;
    force_release(&scene).await;
    holder.ended().await.exits(79);
    assert!(scene.path("tidied").exists());
}

async fn stops_in_time(cut: impl AsyncFnOnce(&mut Scene)) {
    let mut scene = Scene::new().await;
    let holder = scene.holding(&["--ttl", "3s", "--grace", "1s"], "demo", STUBBORN).await;
    let since = Instant::now();
    cut(&mut scene).await;
    let pid = scene.read("pid");
    eventually("the command is gone", SOON, async || !runs(&pid)).await;
    let took = since.elapsed();
    assert!(took < Duration::from_secs(3), "outlived its lease: {took:?}");
    holder.ended().await.exits(79);
    assert!(scene.path("told").exists(), "told before it was killed");
}

#[tokio::test]
async fn a_dead_daemon_stops_the_command_before_the_lease_ends() {
    stops_in_time(async |scene| scene.daemon().kill9().await).await;
}

#[tokio::test]
async fn a_silent_daemon_stops_the_command_before_the_lease_ends() {
    stops_in_time(async |scene| scene.daemon().freeze()).await;
}

#[tokio::test]
async fn a_short_outage_is_sat_out() {
    let mut scene = Scene::new().await;
    let script = "touch up; while [ ! -e go ]; do sleep 0.05; done; exit 4";
    let holder = scene.holding(&["--ttl", "20s"], "demo", script).await;
    scene.daemon().restart().await;
    let token = scene.token("demo").await;
    assert_ne!(token, "0");
    std::fs::write(scene.path("go"), "").unwrap();
    holder.ended().await.exits(4);
}

/// lockd was suspended for longer than its lease, and its command was not: the first thing that
/// lockd does when it wakes up is to end it.
#[tokio::test]
async fn a_suspended_lockd_wakes_up_to_a_lost_lock() {
    let scene = Scene::new().await;
    let holder = scene.holding(&["--ttl", "1s"], "demo", STUBBORN).await;
    holder.signal(Signal::STOP);
    eventually("the lease has run out", SOON, async || scene.get("demo").await["holder"].is_null())
        .await;
    holder.signal(Signal::CONT);
    holder.ended().await.exits(79);
}

#[tokio::test]
async fn a_lock_lost_at_the_very_end_is_lost_all_the_same() {
    let scene = Scene::new().await;
    // The command takes its own lock away and ends before lockd can hear of it.
    let script = "exec \"$0\" force-release demo --token $LOCKD_FENCING_TOKEN --reason test";
    let binary = lockd_binary();
    let args = ["lock", "demo", "--", "sh", "-c", script, binary.to_str().unwrap()];
    scene.run(&args).await.exits(79);
}
