//! The metrics exported to Prometheus: rules and dashboards ask for no others.

use std::{collections::BTreeSet, path::Path, time::Duration};

use integration_tests::{Daemon, eventually};
use lockd_client::ErrorKind;
use lockd_proto::v1;

use crate::{
    loss::without_a_limit,
    sidecar::Sidecar,
    world::{SOON, World, acquire_later, acquire_of, both_stores, soon, token, waiters},
};

both_stores!(what_happens_is_counted);

/// The series of a replica, one a line.
pub(crate) async fn scrape(daemon: &Daemon) -> String {
    let response = reqwest::get(format!("http://{}/metrics", daemon.http_addr())).await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    response.text().await.unwrap()
}

/// The value of a series, by its name and labels.
pub(crate) fn value(scraped: &str, series: &str) -> Option<f64> {
    let of = |line: &str| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok();
    scraped.lines().find_map(of)
}

async fn what_happens_is_counted(world: World) {
    let client = world.client().await;
    // A stream ends at the first replica that answers: what streams do is counted there.
    let sum = async |series: &str| {
        let mut sum = 0.0;
        for daemon in &world.daemons {
            sum += value(&scrape(daemon).await, series).unwrap_or_default();
        }
        sum
    };
    let counts = async |series: &str, count: f64| {
        eventually(&format!("{series} is {count}"), SOON, async || {
            let found = sum(series).await;
            if (found - count).abs() < f64::EPSILON { Ok(()) } else { Err(found) }
        })
        .await;
    };
    let replicas = world.daemons.len() as f64;
    let held = client.lock("l").acquire(&soon()).await.unwrap();
    let busy = client.lock("l").wait(Duration::ZERO).acquire(&soon()).await.unwrap_err();
    assert_eq!(busy.kind(), ErrorKind::Busy);
    let expired = client.lock("l").wait(Duration::from_millis(50)).acquire(&soon()).await;
    assert_eq!(expired.unwrap_err().kind(), ErrorKind::WaitExpired);
    let next = acquire_later(&client, "l");
    waiters(&client, "l", 1).await;
    counts(r#"lockd_acquires_total{result="granted"}"#, 1.0).await;
    counts(r#"lockd_acquires_total{result="busy"}"#, 1.0).await;
    counts(r#"lockd_acquires_total{result="wait_expired"}"#, 1.0).await;
    // Each replica sees all locks.
    counts("lockd_locks", replicas).await;
    counts("lockd_waiters", replicas).await;
    counts("lockd_ready", replicas).await;
    counts("lockd_store_up", replicas).await;
    held.release().await.unwrap();
    let next = next.await.unwrap();
    counts(r#"lockd_acquires_total{result="granted"}"#, 2.0).await;
    counts(r#"lockd_releases_total{reason="released"}"#, replicas).await;
    counts("lockd_wait_seconds_count", 2.0).await;
    counts("lockd_handoff_seconds_count", 1.0).await;
    let handoff = sum("lockd_handoff_seconds_sum").await;
    assert!(handoff > 0.0 && handoff < SOON.as_secs_f64(), "{handoff}");
    counts("lockd_waiters", 0.0).await;
    client.force_release("l", next.token(), "a test").await.unwrap();
    counts(r#"lockd_releases_total{reason="forced"}"#, replicas).await;
    counts("lockd_locks", 0.0).await;
    assert!(sum("lockd_commit_seconds_count").await > 0.0);
    assert!(sum("lockd_batch_size_sum").await >= sum("lockd_commit_seconds_count").await);
    eventually("a lease is renewed", SOON, async || {
        (sum("lockd_keepalives_total").await > 0.0).then_some(())
    })
    .await;
    assert!(sum("lockd_keepalive_margin_seconds_sum").await > 0.0);
}

#[tokio::test]
async fn a_token_that_is_another_holders_is_counted() {
    let world = World::embedded().await;
    let mut raw = world.raw().await;
    let mut session = async || raw.open(Duration::from_secs(10)).await;
    let (holder, other) = (session().await, session().await);
    let granted = token(raw.acquire(&holder, acquire_of("l", 1)).await.unwrap());
    let release = |session: &v1::SessionCredential, token: u64| v1::ReleaseRequest {
        session: Some(session.clone()),
        name: "l".to_owned(),
        request_id: vec![1; 16],
        token,
        ..v1::ReleaseRequest::default()
    };
    raw.locks.release(release(&other, granted)).await.unwrap_err();
    raw.locks.release(release(&holder, granted + 1)).await.unwrap_err();
    let rejections =
        async || value(&scrape(&world.daemons[0]).await, "lockd_fencing_rejections_total").unwrap();
    assert_eq!(rejections().await, 2.0);
    raw.locks.release(release(&holder, granted)).await.unwrap();
    assert_eq!(rejections().await, 2.0);
}

#[tokio::test]
async fn names_of_locks_are_labels_where_that_is_asked_for_and_at_most_500() {
    let world = World::embedded_with(|daemon| daemon.arg("--metrics-lock-names")).await;
    let client = world.client().await;
    let hot = client.lock("orders/\"42\"").acquire(&soon()).await.unwrap();
    let waiting = acquire_later(&client, "orders/\"42\"");
    waiters(&client, "orders/\"42\"", 1).await;
    for lock in 0..510 {
        let held = client.lock(format!("l{lock}")).acquire(&soon()).await.unwrap();
        held.release().await.unwrap();
    }
    eventually("all grants are counted", SOON, async || {
        let scraped = scrape(&world.daemons[0]).await;
        let of = |series: &str, labels: &str| value(&scraped, &format!("{series}{{{labels}}}"));
        let hot = r#"namespace="default",lock="orders/\"42\"""#;
        let found = [
            of("lockd_lock_grants_total", hot),
            of("lockd_lock_holders", hot),
            of("lockd_lock_waiters", hot),
            of("lockd_lock_grants_total", r#"namespace="default",lock="l498""#),
            of("lockd_lock_grants_total", r#"namespace="default",lock="l499""#),
            of("lockd_lock_grants_total", r#"namespace="",lock="""#),
        ];
        let one = Some(1.0);
        let told = found == [one, one, one, one, None, Some(11.0)];
        if told { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
    hot.release().await.unwrap();
    drop(waiting.await.unwrap());
    let scraped = scrape(&World::embedded().await.daemons[0]).await;
    assert!(!scraped.contains("lockd_lock_"), "nobody has asked for it");
}

#[tokio::test]
async fn a_session_that_dies_is_counted_as_expired() {
    let world = World::embedded().await;
    let dying = lockd_client::Client::builder().addrs(world.daemons[0].url());
    let dying = dying.ttl(Duration::from_secs(1)).connect().await.unwrap();
    let held = dying.acquire_detached("l", Duration::from_secs(1), Duration::ZERO).await.unwrap();
    drop(held);
    eventually("its lease runs out", SOON, async || {
        let scraped = scrape(&world.daemons[0]).await;
        let expiries = value(&scraped, "lockd_lease_expiries_total");
        let releases = value(&scraped, r#"lockd_releases_total{reason="expired"}"#);
        if (expiries, releases) == (Some(1.0), Some(1.0)) { Ok(()) } else { Err(scraped) }
    })
    .await;
}

#[tokio::test]
async fn deadlines_are_counted_that_come_and_that_end_a_call() {
    let world = World::embedded().await;
    let daemon = &world.daemons[0];
    let client = world.client().await;
    let _held = client.lock("l").acquire(&soon()).await.unwrap();
    let session = world.raw().await.open(Duration::from_secs(10)).await;
    let acquire = v1::AcquireRequest { session: Some(session), acquire: Some(acquire_of("l", 1)) };
    let mut request = tonic::Request::new(acquire);
    request.set_timeout(Duration::from_millis(200));
    let late = without_a_limit(daemon).await.acquire(request).await.unwrap_err();
    assert_eq!(late.code(), tonic::Code::DeadlineExceeded);
    let scraped = scrape(daemon).await;
    assert_eq!(value(&scraped, "lockd_deadlines_cut_total"), Some(1.0), "{scraped}");
    assert!(value(&scraped, "lockd_deadlines_received_total") >= Some(1.0), "{scraped}");
}

/// The names of ours that a text has.
fn names(text: &str) -> BTreeSet<String> {
    let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    let ours = text.split(word).filter(|name| name.starts_with("lockd_"));
    ours.map(|name| name.trim_end_matches("_bucket").to_owned()).collect()
}

#[tokio::test]
async fn rules_and_dashboards_ask_for_what_there_is() {
    let world = World::embedded().await;
    let client = world.client().await;
    let held = client.lock("l").acquire(&soon()).await.unwrap();
    let next = acquire_later(&client, "l");
    waiters(&client, "l", 1).await;
    held.release().await.unwrap();
    drop(next.await.unwrap());
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    let read = |file: &str| std::fs::read_to_string(deploy.join(file)).unwrap();
    let asked = [read("helm/lockd/files/alerts.yaml"), read("monitoring/dashboard.json")]
        .map(|text| names(&text));
    assert!(asked.iter().all(|asked| asked.len() > 5), "they were read: {asked:?}");
    let sidecar = Sidecar::start(&world, &["--election", "e"]).await;
    eventually("all of it is there", SOON, async || {
        let there = names(&(scrape(&world.daemons[0]).await + &sidecar.get("/metrics").await.body));
        let missing: Vec<_> =
            asked.iter().flatten().filter(|name| !there.contains(*name)).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?}")) }
    })
    .await;
}

#[tokio::test]
async fn every_series_says_what_it_means() {
    let world = World::embedded().await;
    let scraped = scrape(&world.daemons[0]).await;
    let described: BTreeSet<_> = scraped
        .lines()
        .filter_map(|line| line.strip_prefix("# HELP ")?.split(' ').next())
        .collect();
    let types = scraped.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let unsaid: Vec<_> = types.filter(|name| !described.contains(name)).collect();
    assert!(unsaid.is_empty() && described.len() > 15, "{unsaid:?}");
}
