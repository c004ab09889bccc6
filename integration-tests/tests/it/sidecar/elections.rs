//! The leader, as reported to an app.

use futures::StreamExt as _;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Sidecar, TTL};
use crate::world::{SOON, World, both_stores};

both_stores!(one_leads_and_the_other_stands_by, a_resignation_is_told_of_before_the_next_one_leads);

async fn one_leads_and_the_other_stands_by(world: World) {
    let first = Sidecar::candidate(&world, "first", &[]).await;
    let token = first.leads().await;
    let second = Sidecar::candidate(&world, "second", &[]).await;
    second.answers("/standby", 200).await;
    assert_eq!(first.get("/standby").await.code, 503);
    assert_eq!(second.get("/leader").await.code, 503);
    let told = first.get("/v1/elections/e").await.json();
    assert!(
        told["valid_for_ms"].as_u64().unwrap() <= u64::try_from(TTL.as_millis()).unwrap(),
        "{told}"
    );
    for (sidecar, state, is_me) in [(&first, "leader", true), (&second, "standby", false)] {
        let told = sidecar.get("/v1/elections/e").await.json();
        assert_eq!((&told["state"], &told["leader"]), (&json!(state), &json!("first")), "{told}");
        assert_eq!((&told["is_me"], &told["token"]), (&json!(is_me), &json!(token.to_string())));
    }
    // An election in which neither takes part.
    let other = second.get("/v1/elections/another").await;
    assert_eq!((other.code, &other.json()["state"]), (200, &json!("nobody")));
    drop(first);
    // Killed: its lease has to end.
    assert!(second.leads().await > token);
}

async fn a_resignation_is_told_of_before_the_next_one_leads(world: World) {
    let order = tempfile::tempdir().unwrap();
    let told = |name: &str, what: &str| {
        format!("echo {name} {what} $LOCKD_FENCING_TOKEN >> {}/order", order.path().display())
    };
    let start = async |name: &'static str| {
        let (elected, lost) = (told(name, "elected"), told(name, "lost"));
        let hooks = ["--on-elected", &elected, "--on-lost", &lost, "--state-file", "state.json"];
        Sidecar::candidate(&world, name, &hooks).await
    };
    let first = start("first").await;
    let token = first.leads().await;
    // The file follows the answer to `/leader`.
    integration_tests::eventually("its state file says that it leads", SOON, async || {
        let state: Value = serde_json::from_str(&first.read("state.json")).unwrap();
        let leads =
            (&state["leader"], &state["token"]) == (&json!(true), &json!(token.to_string()));
        if leads { Ok(()) } else { Err(state) }
    })
    .await;
    let second = start("second").await;
    second.answers("/standby", 200).await;
    let resigned = first.post("/v1/elections/e:resign").await;
    assert_eq!(resigned.code, 200, "{resigned:?}");
    assert_eq!(first.get("/leader").await.code, 503, "it has resigned");
    let later = second.leads().await;
    let state: Value = serde_json::from_str(&first.read("state.json")).unwrap();
    assert_eq!(state["leader"], json!(false));
    let order = || std::fs::read_to_string(order.path().join("order")).unwrap_or_default();
    let expected = format!("first elected {token}\nfirst lost {token}\nsecond elected {later}\n");
    integration_tests::eventually("all was told", SOON, async || {
        if order() == expected { Ok(()) } else { Err(order()) }
    })
    .await;
    assert_eq!(second.post("/v1/elections/other:resign").await.code, 404);
    assert_eq!(first.post("/v1/elections/e:resign").await.code, 409, "it does not lead");
}

#[tokio::test]
async fn who_cannot_prove_that_it_leads_does_not_say_so() {
    let mut world = World::embedded().await;
    let hooks = ["--on-lost", "echo lost > lost", "--state-file", "state.json"];
    let sidecar = Sidecar::candidate(&world, "first", &hooks).await;
    sidecar.leads().await;
    world.first().freeze();
    let frozen = Instant::now();
    let told = sidecar.answers("/leader", 503).await.json();
    assert!(
        frozen.elapsed() < TTL,
        "the lease of {TTL:?} was not outlived: {:?}",
        frozen.elapsed()
    );
    assert_eq!((&told["state"], &told["leader"]), (&json!("unknown"), &Value::Null), "{told}");
    assert_eq!(sidecar.get("/standby").await.code, 503);
    sidecar.writes("lost", "lost\n").await;
    let state: Value = serde_json::from_str(&sidecar.read("state.json")).unwrap();
    assert_eq!(state["leader"], json!(false));
    assert_eq!(sidecar.get("/livez").await.code, 200);
    sidecar.answers("/readyz", 503).await;
    // It campaigns again when a daemon answers again.
    world.first().thaw();
    sidecar.leads().await;
    sidecar.answers("/v1/ready", 200).await;
}

#[tokio::test]
async fn a_pod_starts_before_lockd_does() {
    let mut world = World::embedded().await;
    world.first().kill9().await;
    let sidecar = Sidecar::candidate(&world, "first", &[]).await;
    for (path, code) in [("/livez", 200), ("/startupz", 503), ("/readyz", 503), ("/leader", 503)] {
        assert_eq!(sidecar.get(path).await.code, code, "{path}");
    }
    assert_eq!(sidecar.post("/v1/locks/l:acquire").await.code, 503);
    world.first().start_again().await;
    sidecar.leads().await;
    assert_eq!(sidecar.get("/startupz").await.code, 200);
}

#[tokio::test]
async fn events_begin_with_what_is_and_go_on_with_each_change() {
    let world = World::embedded().await;
    let first = Sidecar::candidate(&world, "first", &[]).await;
    first.leads().await;
    let second = Sidecar::candidate(&world, "second", &[]).await;
    second.answers("/standby", 200).await;
    // One that takes part, and one that only looks on.
    let bystander = Sidecar::ready(&world, &[]).await;
    for sidecar in [&first, &bystander] {
        let mut events = Events::of(sidecar, "/v1/elections/e/events").await;
        let now = events.next().await;
        let leader = if now["leader"] == "first" { &first } else { &second };
        assert_eq!(leader.post("/v1/elections/e:resign").await.code, 200);
        let next = if now["leader"] == "first" { "second" } else { "first" };
        while events.next().await["leader"] != next {}
    }
    assert_eq!(bystander.get("/leader").await.code, 404, "it campaigns nowhere");
}

#[tokio::test]
async fn who_is_told_to_stop_resigns() {
    let world = World::embedded().await;
    let mut first = Sidecar::candidate(&world, "first", &["--on-lost", "echo lost > lost"]).await;
    let token = first.leads().await;
    let second = Sidecar::candidate(&world, "second", &[]).await;
    second.answers("/standby", 200).await;
    first.signal(Signal::TERM);
    let told = Instant::now();
    assert!(second.leads().await > token);
    assert!(told.elapsed() < TTL / 2, "nobody waits for the lease: {:?}", told.elapsed());
    assert_eq!(first.ended().await, Some(0));
    assert_eq!(first.read("lost"), "lost\n");
}

#[tokio::test]
async fn it_answers_as_the_old_leader_elector_did() {
    let world = World::embedded().await;
    let compat = ["--compat", "leader-elector", "--compat-listen", "127.0.0.1:0"];
    let sidecar = Sidecar::candidate(&world, "first", &compat).await;
    sidecar.leads().await;
    let url = format!("http://{}/", sidecar.compat.as_ref().unwrap());
    let told = reqwest::get(url).await.unwrap().text().await.unwrap();
    assert_eq!(serde_json::from_str::<Value>(&told).unwrap(), json!({ "name": "first" }));
}

#[tokio::test]
async fn probes_and_metrics_are_served_where_the_kubelet_can_ask() {
    let world = World::embedded().await;
    let first = Sidecar::candidate(&world, "first", &["--probe-listen", "127.0.0.1:0"]).await;
    first.leads().await;
    let second = Sidecar::candidate(&world, "second", &[]).await;
    second.answers("/standby", 200).await;
    let probe = async |path: &str| {
        let url = format!("http://{}{path}", first.probes.as_ref().unwrap());
        let response = reqwest::get(url).await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    for path in ["/livez", "/readyz", "/startupz"] {
        assert_eq!(probe(path).await.0, 200, "{path}");
    }
    assert_eq!(probe("/leader").await.0, 404, "the rest is for the app alone");
    let (_, metrics) = probe("/metrics").await;
    for series in [
        r#"lockd_sidecar_leader{election="e"} 1"#,
        r#"leader_election_master_status{name="e"} 1"#,
        r#"lockd_sidecar_candidates{election="e"} 1"#,
        "lockd_sidecar_elected_total 1",
    ] {
        assert!(metrics.lines().any(|line| line == series), "{series} is not in {metrics}");
    }
    let metrics = second.get("/metrics").await.body;
    assert!(metrics.contains(r#"leader_election_master_status{name="e"} 0"#), "{metrics}");
}

/// Server-sent events, one JSON document each.
struct Events {
    lines: futures::stream::BoxStream<'static, String>,
}

impl Events {
    async fn of(sidecar: &Sidecar, path: &str) -> Self {
        let response = reqwest::get(format!("{}{path}", sidecar.url)).await.unwrap();
        assert_eq!(response.status(), 200);
        let chunks = futures::stream::unfold(response, async |mut response| {
            let chunk = response.chunk().await.ok()??;
            Some((String::from_utf8(chunk.to_vec()).unwrap(), response))
        });
        // lockd writes an event at a time.
        let lines = chunks.flat_map(|chunk| {
            futures::stream::iter(chunk.lines().map(str::to_owned).collect::<Vec<_>>())
        });
        Self { lines: lines.boxed() }
    }

    async fn next(&mut self) -> Value {
        loop {
            let line = tokio::time::timeout(SOON, self.lines.next()).await.expect("an event");
            if let Some(data) = line.expect("the stream goes on").strip_prefix("data: ") {
                return serde_json::from_str(data).unwrap();
            }
        }
    }
}
