//! Leader election.

use std::time::Duration;

use lockd_client::{Context, ErrorKind, Leader, Observation, Observed};
use lockd_proto::v1;

use super::queued;
use crate::world::{SOON, TTL, World, acquire_of, both_stores, client_of, soon, token};

both_stores!(
    the_next_candidate_leads_when_the_leader_resigns,
    a_leader_proclaims_under_the_same_leadership,
    an_observer_sees_every_leader_and_nobody,
    run_campaigns_again_after_a_loss,
    an_idle_candidate_whose_session_dies_is_told_so,
    a_dead_leader_is_shown_no_longer_than_its_lease,
    an_election_by_unary_calls,
);

async fn leader(observation: &mut Observation) -> Leader {
    loop {
        let next = tokio::time::timeout(SOON, observation.next()).await.unwrap().unwrap();
        if let Observed::Leader(leader) = next {
            return leader;
        }
    }
}

async fn the_next_candidate_leads_when_the_leader_resigns(world: World) {
    let (here, there) = (world.client().await, world.other_client().await);
    let first = here.election("e").campaign(&soon(), "one").await.unwrap();
    let campaign = tokio::spawn({
        let election = there.election("e");
        async move { election.campaign(&soon(), "two").await }
    });
    queued(&here, "e", (1, 1)).await;
    let before = first.token();
    first.resign().await.unwrap();
    let second = campaign.await.unwrap().unwrap();
    assert!(second.token() > before);
    queued(&here, "e", (1, 0)).await;
    let leader = here.election("e").leader().await.unwrap().unwrap();
    assert_eq!((leader.token, leader.value.as_slice()), (second.token(), b"two".as_slice()));
}

async fn a_leader_proclaims_under_the_same_leadership(world: World) {
    let (here, there) = (world.client().await, world.other_client().await);
    let mut leading = here.election("p").campaign(&soon(), "v1").await.unwrap();
    let mut seen = there.election("p").observe();
    assert_eq!(leader(&mut seen).await.value, b"v1");
    leading.proclaim(&soon(), "v2").await.unwrap();
    let now = leader(&mut seen).await;
    assert_eq!((now.value.as_slice(), now.token), (b"v2".as_slice(), leading.token()));
    let too_long = leading.proclaim(&soon(), vec![0; 5000]).await.unwrap_err();
    assert_eq!(too_long.kind(), ErrorKind::InvalidArgument, "{too_long}");
    leading.proclaim(&soon(), "v3").await.unwrap();
    assert_eq!(leader(&mut seen).await.value, b"v3");
}

async fn an_observer_sees_every_leader_and_nobody(world: World) {
    let (here, there) = (world.client().await, world.other_client().await);
    let mut seen = there.election("o").observe();
    let mut next = async || tokio::time::timeout(SOON, seen.next()).await.unwrap().unwrap();
    assert_eq!(next().await, Observed::Nobody);
    for value in ["a", "b"] {
        let leading = here.election("o").campaign(&soon(), value).await.unwrap();
        let Observed::Leader(leader) = next().await else { panic!("a leader") };
        assert_eq!((leader.token, leader.value.as_slice()), (leading.token(), value.as_bytes()));
        leading.resign().await.unwrap();
        assert_eq!(next().await, Observed::Nobody);
    }
}

async fn run_campaigns_again_after_a_loss(world: World) {
    let (here, there) = (world.client().await, world.other_client().await);
    let (terms, mut elected) = tokio::sync::mpsc::channel(4);
    let running = tokio::spawn(async move {
        let mut term = 0;
        let work = |leading: Context| {
            term += 1;
            let (term, terms) = (term, terms.clone());
            async move {
                terms.send(term).await.unwrap();
                if term < 2 {
                    // Works until the leadership is taken away, and is dropped then.
                    leading.cancelled().await;
                    std::future::pending::<()>().await;
                }
                term
            }
        };
        here.election("r").run(&soon(), "x", work).await
    });
    assert_eq!(elected.recv().await, Some(1));
    queued(&there, "r", (1, 0)).await;
    let leading = there.election("r").leader().await.unwrap().unwrap();
    there.force_release("r", leading.token, "try again").await.unwrap();
    assert_eq!(elected.recv().await, Some(2));
    assert_eq!(running.await.unwrap().unwrap(), 2);
    crate::world::free(&there, "r").await;
}

async fn an_idle_candidate_whose_session_dies_is_told_so(world: World) {
    let url = world.daemons.first().unwrap().url();
    let proxy = integration_tests::Proxy::start(url.trim_start_matches("http://").to_owned()).await;
    let leading = world.client().await.election("idle").campaign(&soon(), "l").await.unwrap();
    let idle = client_of(&proxy.url(), TTL).await;
    let election = idle.election("idle");
    let campaign =
        tokio::spawn(async move { election.campaign(&Context::background(), "idle").await });
    queued(&world.client().await, "idle", (1, 1)).await;
    // Longer than its lease: when the link is back, the session is not.
    proxy.set(integration_tests::Mode::Blackhole).await;
    queued(&world.client().await, "idle", (1, 0)).await;
    proxy.set(integration_tests::Mode::Pass).await;
    let told = tokio::time::timeout(2 * SOON, campaign).await.unwrap().unwrap();
    let told = told.unwrap_err();
    assert!(told.is_lost(), "{told}");
    leading.resign().await.unwrap();
}

async fn a_dead_leader_is_shown_no_longer_than_its_lease(world: World) {
    let mut raw = world.raw().await;
    let session = raw.open(TTL).await;
    let dead = token(raw.acquire(&session, acquire_of("dead", 1)).await.unwrap());
    let since = std::time::Instant::now();
    let client = world.other_client().await;
    let mut seen = client.election("dead").observe();
    assert_eq!(leader(&mut seen).await.token.get(), dead);
    let next = tokio::time::timeout(SOON, seen.next()).await.unwrap().unwrap();
    assert_eq!(next, Observed::Nobody);
    let shown = since.elapsed();
    assert!(shown <= TTL + Duration::from_secs(1), "{shown:?}");
}

async fn an_election_by_unary_calls(world: World) {
    let mut raw = world.raw().await;
    let session = raw.open(Duration::from_secs(30)).await;
    let campaign = v1::Acquire { value: b"v1".to_vec(), ..acquire_of("unary", 1) };
    let token = token(raw.acquire(&session, campaign).await.unwrap());
    let watch = v1::WatchRequest { name: "unary".to_owned(), ..v1::WatchRequest::default() };
    let mut watch = raw.locks.watch(watch).await.unwrap().into_inner();
    let mut value = async || loop {
        let next = tokio::time::timeout(SOON, watch.message()).await.unwrap().unwrap().unwrap();
        if let Some(v1::watch_response::Event::Changed(lock)) = next.event {
            let leader = lock.holders.into_iter().next().unwrap();
            break (leader.token, leader.value);
        }
    };
    assert_eq!(value().await, (token, b"v1".to_vec()));
    let update = |change| v1::UpdateRequest {
        session: Some(session.clone()),
        name: "unary".to_owned(),
        request_id: vec![1; 16],
        change: Some(v1::Change { change: Some(change) }),
        ..v1::UpdateRequest::default()
    };
    raw.locks.update(update(v1::change::Change::Value(b"v2".to_vec()))).await.unwrap();
    assert_eq!(value().await, (token, b"v2".to_vec()));
    raw.locks.update(update(v1::change::Change::Downgrade(v1::Shared {}))).await.unwrap();
    let client = world.other_client().await;
    client.lock("unary").shared().acquire(&soon()).await.unwrap().release().await.unwrap();
}
