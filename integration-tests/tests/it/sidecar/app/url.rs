//! A leadership that is bound to what the app answers.
//!
//! Leases are long here: waiting for the end of one takes longer than any of these tests does.

use std::time::Duration;

use rustix::process::Signal;
use tokio::time::Instant;

use super::http_app::{HttpApp, Manner};
use crate::{
    sidecar::Sidecar,
    world::{World, waiters},
};

const OK: Manner = Manner::Answers("200 OK");

async fn candidate(world: &World, name: &str, args: &[&str]) -> Sidecar {
    let own = ["--election", "e", "--identity", name, "--ttl", "60s"];
    Sidecar::start(world, &[&own, args].concat()).await
}

/// One that leads for an app, and another one that stands by for none.
async fn two(world: &World, app: &HttpApp, args: &[&str]) -> (Sidecar, Sidecar) {
    let watch = ["--watch-url", &app.url()];
    let first = candidate(world, "first", &[&watch, args].concat()).await;
    first.leads().await;
    let second = candidate(world, "second", &[]).await;
    waiters(&world.client().await, "e", 1).await;
    (first, second)
}

#[tokio::test]
async fn an_app_that_has_not_answered_yet_is_no_candidate() {
    let world = World::embedded().await;
    let client = world.client().await;
    let mut app = HttpApp::new();
    app.starts(Manner::HangsUp);
    let sidecar = candidate(&world, "first", &["--watch-url", &app.url()]).await;
    sidecar.answers("/readyz", 200).await;
    app.is_asked(3).await;
    assert!(client.get("e").await.unwrap().is_none(), "nobody campaigns");
    assert_eq!(sidecar.get("/leader").await.code, 503);
    assert!(sidecar.get("/metrics").await.body.contains("lockd_sidecar_app_lives 0"));
    app.now(OK);
    sidecar.leads().await;
    assert!(sidecar.get("/metrics").await.body.contains("lockd_sidecar_app_lives 1"));
}

#[tokio::test]
async fn an_app_that_answers_no_more_is_followed_at_once_and_leads_again_when_it_is_back() {
    let world = World::embedded().await;
    let mut app = HttpApp::new();
    app.starts(OK);
    let (first, second) = two(&world, &app, &[]).await;
    app.dies();
    let later = second.leads().await;
    assert_eq!(first.get("/leader").await.code, 503);
    let client = world.client().await;
    waiters(&client, "e", 0).await;
    app.starts(OK);
    waiters(&client, "e", 1).await;
    assert_eq!(second.post("/v1/elections/e:resign").await.code, 200);
    assert!(first.leads().await > later);
}

#[tokio::test]
async fn a_candidate_whose_app_dies_waits_no_longer() {
    let world = World::embedded().await;
    let first = candidate(&world, "first", &[]).await;
    first.leads().await;
    let mut app = HttpApp::new();
    app.starts(OK);
    let _second = candidate(&world, "second", &["--watch-url", &app.url()]).await;
    let client = world.client().await;
    waiters(&client, "e", 1).await;
    app.dies();
    waiters(&client, "e", 0).await;
}

#[tokio::test]
async fn any_answer_is_a_sign_of_life_and_nothing_of_it_is_followed_or_read() {
    let world = World::embedded().await;
    let mut app = HttpApp::new();
    app.starts(OK);
    let (first, _second) = two(&world, &app, &[]).await;
    let token = first.leads().await;
    for status in ["503 Service Unavailable", "302 Found", "404 Not Found"] {
        app.now(Manner::Answers(status));
        app.is_asked(2).await;
        assert_eq!(first.leads().await, token, "{status}");
    }
    app.is_left().await;
}

#[tokio::test]
async fn an_app_that_hangs_is_followed() {
    let world = World::embedded().await;
    let mut app = HttpApp::new();
    app.starts(OK);
    let (first, second) = two(&world, &app, &[]).await;
    app.is_asked(1).await;
    let hung = Instant::now();
    app.now(Manner::Hangs);
    second.leads().await;
    let after = hung.elapsed();
    assert!(after >= Duration::from_secs(3), "it had its time: {after:?}");
    assert_eq!(first.get("/leader").await.code, 503);
}

#[tokio::test]
async fn an_app_that_drains_leads_for_as_long_as_it_answers() {
    let world = World::embedded().await;
    let mut app = HttpApp::new();
    app.starts(OK);
    let (mut first, second) = two(&world, &app, &[]).await;
    app.now(Manner::Answers("503 Service Unavailable"));
    first.signal(Signal::TERM);
    app.is_asked(3).await;
    assert_eq!(first.get("/leader").await.code, 200, "the app is at it");
    assert_eq!(second.get("/leader").await.code, 503);
    app.dies();
    second.leads().await;
    assert_eq!(first.ended().await, Some(0));
}

#[tokio::test]
async fn an_app_that_does_not_end_is_left_after_the_drain() {
    let world = World::embedded().await;
    let mut app = HttpApp::new();
    app.starts(OK);
    let (mut first, second) = two(&world, &app, &["--drain", "6s"]).await;
    first.signal(Signal::TERM);
    assert_eq!(first.get("/leader").await.code, 200, "it has its time");
    second.leads().await;
    assert_eq!(first.ended().await, Some(0));
}

#[tokio::test]
async fn what_can_not_be_asked_is_refused() {
    let world = World::embedded().await;
    let refused = async |args: &[&str]| {
        let args = [&["--election", "e"], args].concat();
        Sidecar::refused(&world, 64, &args).await
    };
    let https = refused(&["--watch-url", "https://127.0.0.1:8080/"]).await;
    assert!(https.contains("https is not asked") && https.contains("such as http://"), "{https}");
    let both = refused(&["--watch-url", "http://127.0.0.1:8080/", "--watch-pid", "1"]).await;
    assert!(both.contains("--watch-pid") && both.contains("--watch-url"), "{both}");
}
