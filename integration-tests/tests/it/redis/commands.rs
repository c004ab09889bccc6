//! Commands that do not block.

use std::error::Error as _;

use integration_tests::{Mode, Proxy};
use lockd_client::{Context, ErrorKind};
use redis::pipe;
use tokio::time::Instant;

use super::*;

#[tokio::test]
async fn answers_are_read_and_errors_passed_on() {
    let (redis, key) = redis().await;
    let commands = soon().with_trace_id("4bf92f3577b34da6").redis(&redis);
    let () = commands.query(cmd("SET").arg(&key).arg("secret")).await.unwrap();
    let value: String = commands.query(cmd("GET").arg(&key)).await.unwrap();
    assert_eq!(value, "secret");
    let error = commands.query::<()>(cmd("LPUSH").arg(&key).arg("secret")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Failed);
    assert!(error.source().unwrap().is::<redis::RedisError>());
    let text = error.to_string();
    assert!(text.starts_with("redis command \"LPUSH\": failed after 0."), "{text}");
    assert!(text.contains("WRONGTYPE") && text.ends_with("[trace 4bf92f35]"), "{text}");
    assert!(!text.contains("secret") && !error.may_have_applied(), "{text}");
}

#[tokio::test]
async fn a_pipeline_is_one_call() {
    let (redis, key) = redis().await;
    let commands = soon().redis(&redis);
    for atomic in [false, true] {
        let mut pipeline = pipe();
        if atomic {
            pipeline.atomic();
        }
        pipeline.set(&key, 1).ignore().incr(&key, 1).get(&key);
        let answer: (u32, u32) = commands.pipeline(&pipeline).await.unwrap();
        assert_eq!(answer, (2, 2));
    }
    let blocks = pipe().blpop(&key, 0.0).clone();
    let error = commands.pipeline::<()>(&blocks).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("BLPOP would hold up the pipeline"), "{error}");
}

#[tokio::test]
async fn a_silent_server_is_waited_for_until_the_deadline_only() {
    let server = integration_tests::Redis::shared().await;
    let proxy = Proxy::start(server.address()).await;
    let redis = open(&format!("redis://{}/", proxy.addr())).timeout(2 * SHORT);
    let () = soon().redis(&redis).query(&cmd("PING")).await.unwrap();
    proxy.set(Mode::Blackhole).await;
    let cases = [
        (Context::background().with_timeout(SHORT), ErrorKind::DeadlineExceeded),
        (Context::background(), ErrorKind::Unavailable),
    ];
    for (ctx, kind) in cases {
        let start = Instant::now();
        let error = ctx.redis(&redis).query::<()>(cmd("INCR").arg("n")).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.may_have_applied());
        assert!(start.elapsed() < 4 * SHORT, "{:?}", start.elapsed());
    }
    proxy.set(Mode::Pass).await;
    let () = soon().redis(&redis).query(&cmd("PING")).await.unwrap();
}
