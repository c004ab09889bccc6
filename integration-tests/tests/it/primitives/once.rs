//! Once: to success, across all clients.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use integration_tests::eventually;
use lockd_client::{ErrorKind, OnceError};
use lockd_proto::v1::{self, mode::Mode};

use super::{in_mode, queued};
use crate::world::{SOON, TTL, World, acquire_of, both_stores, free, soon, token};

both_stores!(
    many_ask_and_one_runs,
    a_run_that_fails_lets_the_next_one_run,
    a_runner_that_dies_lets_the_next_one_run,
    a_success_is_remembered_until_it_is_forgotten,
    by_unary_calls,
);

async fn many_ask_and_one_runs(world: World) {
    let runs = Arc::new(AtomicUsize::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..6 {
        let client = if n % 2 == 0 { world.client().await } else { world.other_client().await };
        let runs = runs.clone();
        tasks.spawn(async move {
            let work = async |_| {
                runs.fetch_add(1, SeqCst);
                Ok::<_, std::io::Error>(b"the result".to_vec())
            };
            client.once("many").run(&soon(), work).await.unwrap()
        });
    }
    while let Some(done) = tasks.join_next().await {
        assert_eq!(done.unwrap(), b"the result");
    }
    assert_eq!(runs.load(SeqCst), 1);
    free(&world.client().await, "many").await;
}

async fn a_run_that_fails_lets_the_next_one_run(world: World) {
    let (here, there) = (world.client().await, world.other_client().await);
    let failed = here.once("fails").run(&soon(), async |_| Err("no luck")).await;
    assert!(matches!(failed, Err(OnceError::Run("no luck"))), "{failed:?}");
    let work = async |_| Ok::<_, &str>(b"luck".to_vec());
    assert_eq!(there.once("fails").run(&soon(), work).await.unwrap(), b"luck");
}

async fn a_runner_that_dies_lets_the_next_one_run(world: World) {
    let mut raw = world.raw().await;
    let session = raw.open(TTL).await;
    let once = in_mode(Mode::Once(v1::Once {}), acquire_of("dies", 1));
    token(raw.acquire(&session, once).await.unwrap());
    let client = world.other_client().await;
    let work = async |_| Ok::<_, &str>(b"mine".to_vec());
    assert_eq!(client.once("dies").run(&soon(), work).await.unwrap(), b"mine");
}

async fn a_success_is_remembered_until_it_is_forgotten(mut world: World) {
    let client = world.patient_client().await;
    let once = client.once("remembered");
    assert_eq!(once.result().await.unwrap(), None);
    let work = async |_| Ok::<_, &str>(vec![7; 64 * 1024]);
    once.run(&soon(), work).await.unwrap();
    world.kill_and_restart_first().await;
    let never = async |_| Err::<Vec<u8>, _>("it ran again");
    assert_eq!(once.run(&soon(), never).await.unwrap(), vec![7; 64 * 1024]);
    assert_eq!(once.result().await.unwrap(), Some(vec![7; 64 * 1024]));
    assert!(once.forget().await.unwrap());
    assert!(!once.forget().await.unwrap());
    eventually("every replica has forgotten it", SOON, async || {
        let explained = world.other_client().await.once("remembered").result().await;
        matches!((explained, once.result().await), (Ok(None), Ok(None)))
    })
    .await;
    let too_long = async |_| Ok::<_, &str>(vec![0; 64 * 1024 + 1]);
    let refused = once.run(&soon(), too_long).await.unwrap_err();
    assert_eq!(refused.kind(), Some(ErrorKind::InvalidArgument), "{refused}");
}

async fn by_unary_calls(world: World) {
    let mut raw = world.raw().await;
    let session = raw.open(std::time::Duration::from_secs(30)).await;
    let once = |request| in_mode(Mode::Once(v1::Once {}), acquire_of("unary", request));
    token(raw.acquire(&session, once(1)).await.unwrap());
    let update = v1::UpdateRequest {
        session: Some(session.clone()),
        name: "unary".to_owned(),
        request_id: vec![1; 16],
        change: Some(v1::Change { change: Some(v1::change::Change::Result(b"r".to_vec())) }),
        ..v1::UpdateRequest::default()
    };
    raw.locks.update(update.clone()).await.unwrap();
    let again = raw.locks.update(update).await.unwrap_err();
    assert_eq!(crate::world::reason(&again), "CHANGE_REFUSED");
    let done = raw.acquire(&session, once(2)).await.unwrap();
    let Some(v1::acquire_response::Outcome::Refusal(refusal)) = done.outcome else {
        panic!("refused, since it was done")
    };
    assert_eq!((refusal.reason(), refusal.result), (v1::RefusalReason::Done, b"r".to_vec()));
    queued(&world.client().await, "unary", (0, 0)).await;
}
