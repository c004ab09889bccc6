//! The commands for what is not a plain lock: sharing, elections, barriers, onces, and locks
//! that stay when lockd exits.

use super::*;
use crate::world::both_stores;

both_stores!(
    several_locks_are_held_together,
    readers_run_side_by_side_and_a_writer_alone,
    no_more_than_the_permits_run_at_once,
    a_command_runs_while_it_leads_and_the_next_one_then,
    parties_start_and_end_together,
    a_party_that_is_killed_ends_the_others_with_79,
    a_command_that_succeeds_runs_once,
    a_script_acquires_renews_and_releases,
    a_deadlock_ends_with_75_and_is_explained,
);

async fn several_locks_are_held_together(world: World) {
    let scene = Scene::of(world);
    let args = ["lock", "b", "a", "--", "sh", "-c", "touch up; read line"];
    let mut holder = scene.lockd(args);
    holder.stdin(Stdio::piped());
    let mut holder = Running(holder.spawn().unwrap());
    scene.appears("up").await;
    for name in ["a", "b"] {
        scene.run(&["lock", "-n", name, "--", "true"]).await.exits(75);
    }
    drop(holder.0.stdin.take());
    holder.ended().await;
    scene.run(&["lock", "-n", "a", "b", "--", "true"]).await.exits(0);
    scene.run(&["lock", "a", "a", "--", "true"]).await.exits(64);
}

async fn readers_run_side_by_side_and_a_writer_alone(world: World) {
    let scene = Scene::of(world);
    // Each waits for the other's file: both run at once, or neither ends.
    let script = |mine: &str, other: &str| {
        format!("touch {mine}; until [ -e {other} ]; do sleep 0.02; done")
    };
    let readers = [script("r1", "r2"), script("r2", "r1")]
        .map(|script| scene.locked(&["--shared"], "table", &script));
    for reader in readers {
        reader.ended().await.exits(0);
    }
    let reader = scene.holding(&["--shared"], "table", "touch up; exec sleep 1000").await;
    scene.run(&["lock", "-n", "table", "--", "true"]).await.exits(75);
    scene.run(&["lock", "-n", "--shared", "table", "--", "true"]).await.exits(0);
    reader.signal(Signal::TERM);
    reader.ended().await.exits(143);
}

async fn no_more_than_the_permits_run_at_once(world: World) {
    let scene = Scene::of(world);
    let holder = scene.holding(&["--permits", "2/3"], "gpus", "touch up; exec sleep 1000").await;
    scene.run(&["lock", "-n", "--permits", "2/3", "gpus", "--", "true"]).await.exits(75);
    scene.run(&["lock", "-n", "--permits", "1/3", "gpus", "--", "true"]).await.exits(0);
    let other = scene.run(&["lock", "--permits", "1/4", "gpus", "--", "true"]).await.exits(1);
    assert!(other.stderr.contains("capacity of 3") && other.stderr.contains("capacity of 4"));
    for wrong in ["4/3", "0/3", "three"] {
        scene.run(&["lock", "--permits", wrong, "gpus", "--", "true"]).await.exits(64);
    }
    holder.signal(Signal::TERM);
    holder.ended().await.exits(143);
}

async fn a_command_runs_while_it_leads_and_the_next_one_then(world: World) {
    let scene = Scene::of(world);
    let elect = |value: &str, script: &str| {
        let args = ["elect", "e", "--value", value, "--", "sh", "-c", script];
        Running(scene.lockd(args).spawn().unwrap())
    };
    scene.run(&["leader", "e"]).await.exits(1);
    let seen = std::fs::File::create(scene.path("seen")).unwrap();
    let mut observe = scene.lockd(["observe", "e", "-o", "name"]);
    let _observe = observe.stdout(seen).spawn().unwrap();
    let first = elect("one", "touch one; exec sleep 1000");
    scene.appears("one").await;
    let second = elect("two", "touch two; exec sleep 1000");
    eventually("it waits", SOON, async || scene.waiters("e").await == 1).await;
    let leader = scene.run(&["leader", "e", "-o", "json"]).await.exits(0).json();
    assert_eq!((&leader["value"], &leader["kind"]), (&"one".into(), &"Leader".into()));
    assert!(!scene.path("two").exists());
    scene.run(&["leader", "e", "--is-me"]).await.exits(0);
    first.signal(Signal::TERM);
    first.ended().await.exits(143);
    scene.appears("two").await;
    let token = scene.token("e").await;
    scene.run(&["force-release", "e", "--token", &token, "--reason", "test"]).await.exits(0);
    second.ended().await.exits(79);
    eventually("all was observed", SOON, async || {
        let seen = scene.read("seen");
        let leaders: Vec<_> = seen.lines().filter(|line| *line != "-").collect();
        leaders == ["one", "two"] && seen.ends_with("-\n")
    })
    .await;
    scene.run(&["leader", "e", "--is-me"]).await.exits(1);
}

async fn parties_start_and_end_together(world: World) {
    let scene = Scene::of(world);
    let party = |script: &str| {
        let args = ["barrier", "b", "--parties", "2", "--", "sh", "-c", script];
        Running(scene.lockd(args).spawn().unwrap())
    };
    let first = party("touch first; until [ -e second ]; do sleep 0.02; done; touch done");
    eventually("it waits", SOON, async || scene.waiters("b").await == 1).await;
    assert!(!scene.path("first").exists(), "it does not start alone");
    let second = party("touch second; exit 3");
    second.ended().await.exits(3);
    assert!(scene.path("done").exists(), "it does not leave alone");
    first.ended().await.exits(0);
    // Without a command it is a meeting.
    let meeting = Running(scene.lockd(["barrier", "b", "-p", "2"]).spawn().unwrap());
    scene.run(&["barrier", "b", "-p", "2"]).await.exits(0);
    meeting.ended().await.exits(0);
}

async fn a_party_that_is_killed_ends_the_others_with_79(world: World) {
    let scene = Scene::of(world);
    let party = |name: &str| {
        let script = format!("touch {name}; exec sleep 1000");
        let args = ["barrier", "b", "-p", "2", "--ttl", "2s", "--", "sh", "-c", &script];
        Running(scene.lockd(args).spawn().unwrap())
    };
    let (killed, other) = (party("killed"), party("other"));
    scene.appears("killed").await;
    scene.appears("other").await;
    killed.signal(Signal::KILL);
    other.ended().await.exits(79);
    drop(killed);
}

async fn a_command_that_succeeds_runs_once(world: World) {
    let scene = Scene::of(world);
    scene.run(&["once", "migrate", "--", "sh", "-c", "exit 3"]).await.exits(3);
    scene.run(&["once", "migrate", "--result"]).await.exits(1);
    let script = "echo ran >> runs; echo made by $$";
    let once = ["once", "migrate", "--result", "--", "sh", "-c", script];
    let runs: Vec<_> = (0..4).map(|_| Running(scene.lockd(once).spawn().unwrap())).collect();
    let mut printed = Vec::new();
    for run in runs {
        printed.push(run.ended().await.exits(0).stdout);
    }
    printed.dedup();
    assert_eq!(printed.len(), 1, "all print the one result: {printed:?}");
    assert_eq!(scene.read("runs"), "ran\n");
    let skipped = scene.run(&["once", "migrate", "--", "false"]).await.exits(0);
    assert_eq!(skipped.stdout, "");
    assert_eq!(scene.run(&["once", "migrate", "--result"]).await.exits(0).stdout, printed[0]);
    scene.run(&["once", "migrate", "--forget"]).await.exits(0);
    scene.run(&["once", "migrate", "--", "false"]).await.exits(1);
    let long = ["once", "long", "--result", "--", "head", "-c", "70000", "/dev/zero"];
    let ended = scene.run(&long).await.exits(70);
    assert!(ended.stderr.contains("65536"), "{}", ended.stderr);
    scene.run(&["once", "long", "--result"]).await.exits(1);
}

async fn a_script_acquires_renews_and_releases(world: World) {
    let scene = Scene::of(world);
    let acquired = scene.run(&["acquire", "deploy", "--ttl", "30s"]).await.exits(0);
    std::fs::write(scene.path("lock"), &acquired.stdout).unwrap();
    assert_eq!(scene.token("deploy").await, acquired.json()["token"].as_str().unwrap());
    scene.run(&["acquire", "deploy", "--ttl", "30s"]).await.exits(75);
    let renewed = scene.run(&["renew", "lock"]).await.exits(0).json();
    assert_eq!(renewed["ttlMs"], "30000");
    let waiting = scene.lockd(["acquire", "deploy", "--ttl", "2s", "--wait", "20s"]).spawn();
    let waiting = Running(waiting.unwrap());
    eventually("it waits", SOON, async || scene.waiters("deploy").await == 1).await;
    scene.run(&["release", "lock"]).await.exits(0);
    scene.run(&["release", "lock"]).await.exits(79);
    std::fs::write(scene.path("second"), waiting.ended().await.exits(0).stdout).unwrap();
    // The detached lock is not renewed.
    scene.run(&["lock", "--wait", "20s", "deploy", "--", "true"]).await.exits(0);
    scene.run(&["renew", "second"]).await.exits(79);
    scene.run(&["renew", "nowhere"]).await.exits(64);
    std::fs::write(scene.path("third"), "{}").unwrap();
    scene.run(&["renew", "third"]).await.exits(64);
}

async fn a_deadlock_ends_with_75_and_is_explained(world: World) {
    let scene = Scene::of(world);
    let holder = |own: &str, owner: &str| {
        let script = format!("touch {own}; exec sleep 1000");
        scene.locked(&["--owner", owner], own, &script)
    };
    let (x, y) = (holder("x", "order-1"), holder("y", "order-2"));
    scene.appears("x").await;
    scene.appears("y").await;
    let first = scene.locked(&["--owner", "order-1"], "y", "true");
    eventually("it waits", SOON, async || scene.waiters("y").await == 1).await;
    let third = scene.locked(&["--wait", "100s"], "x", "true");
    eventually("it waits", SOON, async || scene.waiters("x").await == 1).await;
    let youngest = scene.run(&["lock", "--owner", "order-2", "x", "--", "true"]).await.exits(75);
    assert!(youngest.stderr.contains("deadlock"), "{}", youngest.stderr);
    let shown = eventually("the deadlock is remembered", SOON, async || {
        let shown = scene.run(&["explain", "x", "-o", "table"]).await.exits(0).stdout;
        shown.contains("deadlock, ended").then_some(shown)
    })
    .await;
    for part in [
        "x is held by sh@",
        "owner: order-1",
        "order-1 waits for y",
        "order-2 waits for x",
        "this wait was ended",
        "1.",
    ] {
        assert!(shown.contains(part), "{part:?} in\n{shown}");
    }
    let json = scene.run(&["explain", "x", "-o", "json"]).await.exits(0).json();
    assert_eq!(json["deadlocks"][0]["cycle"].as_array().unwrap().len(), 2);
    let asked = scene.run(&["yield", "x", "--reason", "deploy"]).await.exits(0).json();
    assert_eq!(asked["holders"].as_array().unwrap().len(), 1);
    for holder in [y, first, x, third] {
        holder.signal(Signal::TERM);
        holder.ended().await;
    }
}
