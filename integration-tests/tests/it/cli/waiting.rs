//! Waiting for a lock can be interrupted, and leaves nothing behind.

use super::*;

const HOLD: &str = "touch up; exec sleep 1000";

async fn interrupted_by(signal: Signal, code: i32) {
    let scene = Scene::new().await;
    let holder = scene.holding(&[], "demo", HOLD).await;
    let token = scene.token("demo").await;
    let waiter = scene.locked(&[], "demo", "touch ran");
    eventually("it waits", SOON, async || scene.waiters("demo").await == 1).await;
    waiter.signal(signal);
    waiter.ended().await.exits(code);
    // At once: it left the queue before it ended.
    assert_eq!(scene.waiters("demo").await, 0);
    assert_eq!(scene.token("demo").await, token);
    assert!(!scene.path("ran").exists());
    drop(holder);
}

#[tokio::test]
async fn sigint_is_130() {
    interrupted_by(Signal::INT, 130).await;
}

#[tokio::test]
async fn sigterm_is_143() {
    interrupted_by(Signal::TERM, 143).await;
}

#[tokio::test]
async fn an_interrupt_ends_it_even_if_the_server_is_silent() {
    let mut scene = Scene::new().await;
    let holder = scene.holding(&[], "demo", HOLD).await;
    let waiter = scene.locked(&[], "demo", "touch ran");
    eventually("it waits", SOON, async || scene.waiters("demo").await == 1).await;
    scene.daemon().freeze();
    waiter.signal(Signal::TERM);
    tokio::time::timeout(SOON, waiter.ended()).await.expect("it ends in 10 s").exits(143);
    scene.daemon().thaw();
    drop(holder);
}

#[tokio::test]
async fn it_says_for_whom_it_waits() {
    let scene = Scene::new().await;
    let holder = scene.holding(&[], "demo", HOLD).await;
    let token = scene.token("demo").await;
    let pid = holder.0.id().unwrap();
    let ended = scene.run(&["lock", "-w", "2500ms", "demo", "--", "true"]).await.exits(75);
    let told = ended.stderr.lines().find(|line| line.starts_with("lockd: waiting for \"demo\""));
    let told = told.unwrap_or_else(|| panic!("it says nothing: {ended:?}"));
    for part in [&token, &pid.to_string(), "1 ahead"] {
        assert!(told.contains(part), "{part} is not in {told}");
    }
}

#[tokio::test]
async fn the_next_in_line_gets_it_when_the_holder_ends() {
    let scene = Scene::new().await;
    let script = "touch up; while [ ! -e go ]; do sleep 0.05; done";
    let holder = scene.holding(&[], "demo", script).await;
    let waiter = scene.locked(&["-w", "60s"], "demo", "echo mine");
    eventually("it waits", SOON, async || scene.waiters("demo").await == 1).await;
    std::fs::write(scene.path("go"), "").unwrap();
    holder.ended().await.exits(0);
    assert_eq!(waiter.ended().await.exits(0).stdout, "mine\n");
}
