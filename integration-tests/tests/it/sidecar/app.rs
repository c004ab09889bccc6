//! A leadership that is bound to the app's process.

mod http_app;
mod url;

use rustix::process::Signal;
use tokio::{
    process::{Child, Command},
    time::Instant,
};

use super::{Sidecar, TTL};
use crate::world::{SOON, World};

/// An app, by `sh`: killed when dropped.
fn app(script: &str) -> Child {
    Command::new("sh").args(["-c", script]).kill_on_drop(true).spawn().unwrap()
}

async fn leads_for(world: &World, app: &Child) -> Sidecar {
    let pid = app.id().unwrap().to_string();
    let sidecar = Sidecar::candidate(world, "first", &["--watch-pid", &pid]).await;
    sidecar.leads().await;
    sidecar
}

#[tokio::test]
async fn an_app_that_dies_is_followed_at_once() {
    let world = World::embedded().await;
    let mut app = app("exec sleep 100");
    let mut sidecar = leads_for(&world, &app).await;
    let second = Sidecar::candidate(&world, "second", &[]).await;
    second.answers("/standby", 200).await;
    app.start_kill().unwrap();
    let killed = Instant::now();
    second.leads().await;
    assert!(killed.elapsed() < TTL / 2, "nobody waits for the lease: {:?}", killed.elapsed());
    assert_eq!(sidecar.ended().await, Some(0));
}

#[tokio::test]
async fn an_app_that_drains_is_waited_for() {
    let world = World::embedded().await;
    let mut app = app("exec sleep 100");
    let mut sidecar = leads_for(&world, &app).await;
    let second = Sidecar::candidate(&world, "second", &[]).await;
    second.answers("/standby", 200).await;
    sidecar.signal(Signal::TERM);
    // The lease is renewed for as long as the app needs: what is left of it grows again and again.
    let (mut before, mut renewed) = (u64::MAX, 0);
    integration_tests::eventually("the lease is renewed six times", SOON, async || {
        let answer = sidecar.get("/leader").await;
        assert_eq!(answer.code, 200, "the app is at it: {answer:?}");
        assert_eq!(second.get("/leader").await.code, 503);
        let left = answer.json()["valid_for_ms"].as_u64().unwrap();
        renewed += u32::from(left > before);
        before = left;
        if renewed >= 6 { Ok(()) } else { Err(renewed) }
    })
    .await;
    app.kill().await.unwrap();
    second.leads().await;
    assert_eq!(sidecar.ended().await, Some(0));
}

#[tokio::test]
async fn an_app_that_ignores_the_loss_is_killed_within_the_lease() {
    let mut world = World::embedded().await;
    let mut app = app("trap 'echo told' TERM; while :; do sleep 0.1; done");
    let sidecar = leads_for(&world, &app).await;
    world.first().freeze();
    let frozen = Instant::now();
    let status = app.wait().await.unwrap();
    use std::os::unix::process::ExitStatusExt as _;
    assert_eq!(status.signal(), Some(9));
    assert!(frozen.elapsed() < TTL, "the lease was not outlived: {:?}", frozen.elapsed());
    assert_eq!(sidecar.get("/leader").await.code, 503);
    world.first().thaw();
}

#[tokio::test]
async fn an_app_that_is_told_of_the_loss_has_time_to_end() {
    let mut world = World::embedded().await;
    let mut app = app("trap 'exit 7' TERM; while :; do sleep 0.05; done");
    let sidecar = leads_for(&world, &app).await;
    world.first().freeze();
    let frozen = Instant::now();
    assert_eq!(app.wait().await.unwrap().code(), Some(7), "it has ended by itself");
    assert!(frozen.elapsed() < TTL, "the lease was not outlived: {:?}", frozen.elapsed());
    drop(sidecar);
    world.first().thaw();
}

#[tokio::test]
async fn a_process_that_is_not_there_can_not_be_watched() {
    let world = World::embedded().await;
    let watch = ["--election", "e", "--watch-pid", "4194304"];
    let said = Sidecar::refused(&world, 78, &watch).await;
    assert!(
        said.contains("--watch-pid 4194304") && said.contains("shareProcessNamespace"),
        "{said}"
    );
}
