//! Many commands at once, through every replica: what a lock is for. On both stores.

use super::*;
use crate::world::both_stores;

const COUNTERS: usize = 20;

both_stores!(
    twenty_counters_lose_no_count,
    the_next_in_line_gets_the_lock_of_a_holder_that_is_killed,
    a_forced_release_stops_the_command,
);

async fn twenty_counters_lose_no_count(world: World) {
    let scene = Scene::of(world);
    std::fs::write(scene.path("f"), "0\n").unwrap();
    let script = "n=$(cat f); echo $((n+1)) > f; echo $LOCKD_FENCING_TOKEN >> tokens";
    let replicas = scene.world.daemons.iter().map(Daemon::url).cycle();
    let counters: Vec<_> = replicas
        .take(COUNTERS)
        .map(|url| {
            let args = ["lock", "ctr", "--", "sh", "-c", script];
            Running(scene.lockd(args).env("LOCKD_ADDR", url).spawn().unwrap())
        })
        .collect();
    for counter in counters {
        counter.ended().await.exits(0);
    }
    assert_eq!(scene.read("f").trim(), COUNTERS.to_string());
    let tokens: Vec<u64> =
        scene.read("tokens").lines().map(|token| token.parse().unwrap()).collect();
    assert!(tokens.is_sorted_by(|a, b| a < b), "tokens only grow: {tokens:?}");
}

async fn the_next_in_line_gets_the_lock_of_a_holder_that_is_killed(world: World) {
    let scene = Scene::of(world);
    let holder = scene.holding(&["--ttl", "2s"], "demo", "touch up; exec sleep 1000").await;
    let waiter = scene.locked(&[], "demo", "touch mine");
    eventually("it waits", SOON, async || scene.waiters("demo").await == 1).await;
    holder.signal(Signal::KILL);
    let killed = std::time::Instant::now();
    waiter.ended().await.exits(0);
    let took = killed.elapsed();
    assert!(took < Duration::from_secs(3), "later than the TTL and a second: {took:?}");
}

async fn a_forced_release_stops_the_command(world: World) {
    let scene = Scene::of(world);
    let holder = scene.holding(&[], "demo", "touch up; exec sleep 1000").await;
    let token = scene.token("demo").await;
    let args = ["force-release", "demo", "--token", &token, "--reason", "test"];
    scene.run(&args).await.exits(0);
    holder.ended().await.exits(79);
}
