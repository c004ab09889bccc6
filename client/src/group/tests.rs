//! Groups, pools and pipelines on paused time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use lockd_proto::clock::Clock;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// Counts who is inside, until it is dropped.
struct Inside(Arc<AtomicUsize>);

impl Inside {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, SeqCst);
        Self(count.clone())
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

fn background() -> Context {
    Context::background_on(Clock::tokio())
}

#[tokio::test(start_paused = true)]
async fn the_first_failure_ends_the_others_and_is_what_is_told() {
    let mut group = Group::new(&background());
    let inside = Arc::new(AtomicUsize::new(0));
    for n in 0..4 {
        let inside = Inside::new(&inside);
        let work = move |_| async move {
            tokio::time::sleep(SECOND * (n + 1)).await;
            drop(inside);
            Err::<(), _>(n)
        };
        group.spawn(work).await.unwrap();
    }
    assert_eq!(group.wait().await, Err(GroupError::Failed(0)));
    assert_eq!(inside.load(SeqCst), 0, "nothing outlives it");
}

#[tokio::test(start_paused = true)]
async fn no_more_than_the_limit_run_at_once() {
    let mut group = Group::<()>::new(&background()).limit(3);
    let inside = Arc::new(AtomicUsize::new(0));
    for _ in 0..20 {
        let counted = inside.clone();
        let work = move |_| async move {
            let _inside = Inside::new(&counted);
            assert!(counted.load(SeqCst) <= 3);
            tokio::time::sleep(SECOND).await;
            Ok(())
        };
        group.spawn(work).await.unwrap();
    }
    assert_eq!(group.wait().await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_a_failure() {
    let mut group = Group::<()>::new(&background());
    group.spawn(|_| async { panic!("one of them") }).await.unwrap();
    group.spawn(|_| std::future::pending()).await.unwrap();
    let panicked = GroupError::Panicked("one of them".to_owned());
    assert_eq!(group.wait().await, Err(panicked));
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_context_is_the_end_of_the_group() {
    let (ctx, cancel) = background().with_cancel();
    let mut group = Group::<()>::new(&ctx).limit(1);
    group.spawn(|_| std::future::pending()).await.unwrap();
    let waiting = group.spawn(|_| std::future::pending());
    assert!(tokio::time::timeout(SECOND, waiting).await.is_err(), "it waits for its place");
    cancel.cancel();
    assert_eq!(group.spawn(|_| std::future::pending()).await, Err(Cause::Cancelled));
    assert_eq!(group.wait().await, Err(GroupError::Ended(Cause::Cancelled)));
}

#[tokio::test(start_paused = true)]
async fn a_group_that_is_dropped_ends_its_tasks() {
    let inside = Arc::new(AtomicUsize::new(0));
    let mut group = Group::<()>::new(&background());
    let counted = Inside::new(&inside);
    let work = move |_| async move {
        let _inside = counted;
        std::future::pending().await
    };
    group.spawn(work).await.unwrap();
    drop(group);
    while inside.load(SeqCst) > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_ends_the_others_though_nobody_waits_yet() {
    let mut group = Group::new(&background());
    let ctx = group.context().clone();
    group.spawn(|_| async { Err::<(), _>("no luck") }).await.unwrap();
    assert_eq!(ctx.cancelled().await, Cause::Cancelled);
    assert_eq!(group.wait().await, Err(GroupError::Failed("no luck")));
}

#[tokio::test(start_paused = true)]
async fn who_sends_is_held_up_by_those_who_work() {
    let mut group = Group::<()>::new(&background());
    let slow = || {
        async |_: u32| {
            tokio::time::sleep(SECOND).await;
            Ok(())
        }
    };
    let items = group.pool(1, [slow(), slow()]);
    let start = tokio::time::Instant::now();
    for item in 0..5 {
        items.send(item).await.unwrap();
    }
    // Two are at work and one waits, so the fifth had to wait until two were done.
    assert_eq!(start.elapsed().as_secs(), 1);
    drop(items);
    assert_eq!(group.wait().await, Ok(()));
    assert_eq!(start.elapsed().as_secs(), 3);
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_room_hears_of_the_end() {
    let (ctx, cancel) = background().with_cancel();
    let mut group = Group::<()>::new(&ctx);
    let items = group.pool(1, [|_: u32| std::future::pending()]);
    items.send(1).await.unwrap();
    tokio::task::yield_now().await;
    items.send(2).await.unwrap();
    let waiting = items.send(3);
    assert!(tokio::time::timeout(SECOND, waiting).await.is_err(), "there is no room");
    cancel.cancel();
    assert_eq!(items.send(4).await, Err(Cause::Cancelled));
    assert_eq!(group.wait().await, Err(GroupError::Ended(Cause::Cancelled)));
}

#[tokio::test(start_paused = true)]
async fn a_failure_in_any_stage_ends_the_pipeline() {
    let made = Arc::new(AtomicUsize::new(0));
    for fails_at in ["first", "last", "nowhere"] {
        let mut group = Group::new(&background());
        let counted = made.clone();
        let items = group
            .pipeline(2)
            .stage([move |n: u32| async move {
                if n == 7 && fails_at == "first" { Err("first") } else { Ok(n * 2) }
            }])
            .stage((0..3).map(|_| async |n: u32| Ok(n.to_string())))
            .end([move |text: String| {
                let fails = text == "14" && fails_at == "last";
                counted.fetch_add(1, SeqCst);
                std::future::ready(if fails { Err("last") } else { Ok(()) })
            }]);
        let sent = async {
            for n in 0..100 {
                items.send(n).await?;
            }
            Ok(())
        };
        let sent: Result<(), Cause> = sent.await;
        drop(items);
        let ended = group.wait().await;
        match fails_at {
            "nowhere" => assert_eq!((sent, ended), (Ok(()), Ok(()))),
            stage => {
                assert_eq!(sent, Err(Cause::Cancelled), "whoever sends hears of it");
                assert_eq!(ended, Err(GroupError::Failed(stage)));
            }
        }
        assert!(made.swap(0, SeqCst) == 100 || fails_at != "nowhere");
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_a_worker_is_the_groups() {
    let mut group = Group::<()>::new(&background());
    let items = group.pool(1, [async |_: u32| panic!("one of them")]);
    items.send(1).await.unwrap();
    assert_eq!(group.context().cancelled().await, Cause::Cancelled);
    assert_eq!(items.send(2).await, Err(Cause::Cancelled));
    assert_eq!(group.wait().await, Err(GroupError::Panicked("one of them".to_owned())));
}
