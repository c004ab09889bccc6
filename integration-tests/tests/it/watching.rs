//! Looking at locks: get, list by page, and watch.

use lockd_client::LockEvent;

use crate::world::{SOON, World, both_stores, free, soon};

both_stores!(a_watch_shows_what_is_and_what_changes, a_listing_comes_in_pages);

async fn a_watch_shows_what_is_and_what_changes(world: World) {
    let (here, there) = (world.client().await, world.other_client().await);
    let before = here.lock("watch/a").acquire(&soon()).await.unwrap();
    let _elsewhere = here.lock("other").acquire(&soon()).await.unwrap();
    integration_tests::eventually("the other replica sees it", SOON, async || {
        matches!(there.get("watch/a").await, Ok(Some(_)))
    })
    .await;
    let mut watch = there.watch("watch/").await.unwrap();
    let mut next =
        async || tokio::time::timeout(SOON, watch.next()).await.unwrap().unwrap().unwrap();
    let LockEvent::Changed(lock) = next().await else { panic!("the current state first") };
    assert_eq!((lock.name.as_str(), lock.holder().unwrap().token), ("watch/a", before.token()));
    assert_eq!(next().await, LockEvent::SnapshotEnd);
    let after = here.lock("watch/b").acquire(&soon()).await.unwrap();
    let LockEvent::Changed(lock) = next().await else { panic!("then changes") };
    assert_eq!((lock.name.as_str(), lock.holder().unwrap().token), ("watch/b", after.token()));
    before.release().await.unwrap();
    let freed = next().await;
    assert!(matches!(&freed, LockEvent::Freed { name, .. } if name == "watch/a"), "{freed:?}");
}

async fn a_listing_comes_in_pages(world: World) {
    let client = world.client().await;
    let mut held = Vec::new();
    for n in 0..5 {
        held.push(client.lock(format!("page/{n}")).acquire(&soon()).await.unwrap());
    }
    integration_tests::eventually("all are listed", SOON, async || {
        client.list("page/").await.is_ok_and(|locks| locks.len() == 5)
    })
    .await;
    let mut raw = world.raw().await;
    let mut names = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = lockd_proto::v1::ListRequest {
            prefix: "page/".to_owned(),
            page_size: 2,
            page_token,
            ..Default::default()
        };
        let page = raw.locks.list(request).await.unwrap().into_inner();
        names.extend(page.locks.into_iter().map(|lock| lock.name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(names, ["page/0", "page/1", "page/2", "page/3", "page/4"]);
    for guard in held {
        guard.release().await.unwrap();
    }
    free(&client, "page/0").await;
}
