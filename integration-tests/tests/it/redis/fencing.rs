//! Who holds a lock no longer can't write, whatever it believes.

use lockd_client::{ErrorKind, FencingToken};
use redis::{Script, pipe};

use super::*;
use crate::world::World;

#[tokio::test]
async fn a_stale_holder_is_refused_and_told_of_both_tokens() {
    let world = World::embedded().await;
    let client = world.client().await;
    let (redis, key) = redis().await;
    let stale = client.lock(key.as_str()).acquire(&soon()).await.unwrap();
    let set = |value: u32| cmd("SET").arg(&key).arg(value).clone();
    let () = stale.redis(&redis).query(&set(1)).await.unwrap();
    client.force_release(key.as_str(), stale.token(), "the test wants it").await.unwrap();
    let later = client.lock(key.as_str()).acquire(&soon()).await.unwrap();
    let () = later.redis(&redis).query(&set(2)).await.unwrap();
    // In a context that has not heard of the loss, as that of a process that was paused.
    let late = soon().redis(&redis).fenced(&stale);
    let error = late.query::<()>(&set(3)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
    let fenced = error.fenced().unwrap();
    assert_eq!((fenced.ours, fenced.stored), (stale.token(), later.token()));
    let error = late.pipeline::<()>(pipe().set(&key, 4).ignore()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
    let value: u32 = soon().redis(&redis).query(cmd("GET").arg(&key)).await.unwrap();
    assert_eq!(value, 2);
    let stored = cmd("GET").arg(format!("lockd:fence:default/{key}")).clone();
    let stored: FencingToken = soon().redis(&redis).query(&stored).await.unwrap();
    assert_eq!(stored, later.token());
}

#[tokio::test]
async fn any_command_can_be_fenced_and_answers_as_it_does_otherwise() {
    let world = World::embedded().await;
    let client = world.client().await;
    let (redis, key) = redis().await;
    let guard = client.lock(key.as_str()).acquire(&soon()).await.unwrap();
    let fenced = guard.redis(&redis);
    let none: Option<String> = fenced.query(cmd("GET").arg(&key)).await.unwrap();
    assert_eq!(none, None);
    let mut pipeline = pipe();
    pipeline.hset(&key, "a", 1).ignore().hset(&key, "b", 2).hgetall(&key).hget(&key, "none");
    type Answer = (u32, std::collections::HashMap<String, u32>, Option<u32>);
    let (new, all, none): Answer = fenced.pipeline(&pipeline).await.unwrap();
    assert_eq!((new, all.get("b"), none), (1, Some(&2), None));
    let atomic: (u32,) = fenced.pipeline(pipe().atomic().hlen(&key)).await.unwrap();
    assert_eq!(atomic, (2,));
    let error = fenced.query::<()>(cmd("INCR").arg(&key)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Failed, "{error}");
    assert!(error.to_string().contains("WRONGTYPE"), "{error}");
    let error = fenced.query::<()>(cmd("BLPOP").arg(&key).arg(0)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    let elsewhere = fenced.fence_key(format!("{{{key}}}:fence"));
    let length: u32 = elsewhere.query(cmd("HLEN").arg(&key)).await.unwrap();
    assert_eq!(length, 2);
}

#[tokio::test]
async fn only_a_lock_with_one_holder_fences() {
    let world = World::embedded().await;
    let client = world.client().await;
    let (redis, key) = redis().await;
    let shared = client.lock(key.as_str()).shared().acquire(&soon()).await.unwrap();
    let error = shared.redis(&redis).query::<()>(cmd("GET").arg(&key)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
}

/// Lua's own numbers would take 2^53 + 1 for 2^53, and compare 10 with 9 by their first digits as
/// strings.
#[tokio::test]
async fn tokens_are_compared_to_their_last_digit() {
    const FENCE: &str = include_str!("../../../../client/src/redis/fence.lua");
    let (_, key) = redis().await;
    let url = integration_tests::Redis::shared().await.url();
    let mut connection =
        redis::Client::open(url).unwrap().get_multiplexed_async_connection().await.unwrap();
    let script = Script::new(FENCE);
    let edges = [1, 9, 10, 99, 100, 1 << 53, (1 << 53) + 1, (1 << 53) + 2, u64::MAX - 1, u64::MAX];
    for stored in edges {
        for ours in edges {
            let () = cmd("SET").arg(&key).arg(stored).query_async(&mut connection).await.unwrap();
            let mut call = script.key(&key);
            call.arg(ours).arg(1).arg("PING");
            let answer: Vec<Option<String>> = call.invoke_async(&mut connection).await.unwrap();
            let refused = answer.first().unwrap().is_some();
            assert_eq!(refused, stored > ours, "{stored} stored, {ours} ours: {answer:?}");
        }
    }
}
