//! Frames: what is ready leaves together, and what a broken stream may have undone is asked for
//! again.

use std::time::Duration;

use futures::future::join_all;
use lockd_proto::v1::{
    self, ReleaseOutcome, client_message::Message as Ask, server_message::Message as Told,
};

use super::{
    TTL, background, client,
    fake::{FakeServer, Net, Stream, entry, release_answer, within_patience},
    hold,
};
use crate::{Client, Guard, Released};

fn granted(request_id: Vec<u8>, token: u64) -> Told {
    Told::Granted(v1::Granted { request_id, grant: Some(v1::Grant { token }) })
}

/// A stream that has asked to open a session and, in the same frame, for so many acquires.
async fn opening(server: &mut FakeServer, acquires: usize) -> (Stream, Vec<Vec<u8>>) {
    let mut stream = server.accept().await;
    assert!(matches!(stream.next().await, Ask::Open(_)));
    let mut ids = vec![];
    for _ in 0..acquires {
        ids.push(stream.expect_acquire().await.request_id);
    }
    (stream, ids)
}

/// Releases a lock whose release is in the log at this place, and not durable yet.
async fn release_early(guard: Guard, stream: &mut Stream, position: u64, durable: u64) -> Vec<u8> {
    let answering = async {
        let id = stream.expect_release().await;
        let answer = release_answer(id.clone(), ReleaseOutcome::Released, position);
        stream.tell_all([answer], durable).await;
        id
    };
    let (released, id) = tokio::join!(guard.release(), answering);
    assert_eq!(released.unwrap(), Released::Released, "the caller does not wait for the disk");
    id
}

#[tokio::test(start_paused = true)]
async fn a_session_and_its_first_locks_take_one_frame_each_way() {
    let mut net = Net::of(&["a"]);
    let client = client(&net);
    let ctx = background(&client);
    let serving = async {
        let (stream, ids) = opening(net.at("a"), 3).await;
        assert_eq!(stream.seen().frames, [4]);
        let grants = ids.into_iter().zip(1..).map(|(id, token)| granted(id, token));
        let greeting = stream.greeting(TTL, vec![]);
        stream.tell_all(std::iter::once(greeting).chain(grants), 0).await;
        stream
    };
    let acquires = join_all(["a", "b", "c"].map(|lock| client.lock(lock).acquire(&ctx)));
    let (guards, _stream) = within_patience(async { tokio::join!(acquires, serving) }).await;
    let tokens: Vec<_> = guards.into_iter().map(|guard| guard.unwrap().token().get()).collect();
    assert_eq!(tokens, [1, 2, 3], "acquires keep their order");
}

#[tokio::test(start_paused = true)]
async fn acquires_and_releases_that_are_ready_together_leave_in_one_frame() {
    let mut net = Net::of(&["a"]);
    let client = client(&net);
    let ctx = background(&client);
    let (_first, mut stream) = hold(&mut net, &client, 7).await;
    let names: Vec<_> = (0..50).map(|n| format!("orders/{n}")).collect();
    let granting = async {
        let mut grants = vec![];
        for token in 8..58 {
            grants.push(granted(stream.expect_acquire().await.request_id, token));
        }
        stream.tell_all(grants, 0).await;
    };
    let acquires = join_all(names.iter().map(|name| client.lock(name.as_str()).acquire(&ctx)));
    let (guards, ()) = within_patience(async { tokio::join!(acquires, granting) }).await;
    guards.into_iter().for_each(|guard| drop(guard.unwrap()));
    for _ in 0..50 {
        stream.expect_release().await;
    }
    assert_eq!(stream.seen().frames, [2, 50, 50]);
}

#[tokio::test(start_paused = true)]
async fn an_open_that_is_sent_again_names_the_same_session_on_the_next_stream() {
    let mut net = Net::of(&["a", "b"]);
    let client = client(&net);
    let ctx = background(&client);
    let serving = async {
        let (stream, first) = opening(net.at("a"), 1).await;
        let asked = stream.seen().session;
        drop(stream);
        let (stream, second) = opening(net.at("b"), 1).await;
        let again = stream.seen().session;
        assert_eq!((asked.stream, again.stream), (1, 2));
        assert_eq!((asked.session_id, asked.secret), (again.session_id, again.secret));
        assert_eq!(first, second);
        // The first one had arrived, and its acquire with it.
        let [id] = &second[..] else { panic!("one acquire") };
        let greeting = stream.greeting(TTL, vec![entry(id, 7, true)]);
        stream.tell_all([greeting, granted(id.clone(), 7)], 0).await;
        stream
    };
    let (guard, mut stream) =
        within_patience(async { tokio::join!(client.lock("a").acquire(&ctx), serving) }).await;
    assert_eq!(guard.as_ref().unwrap().token().get(), 7);
    stream.stays_silent(10 * TTL).await;
}

#[tokio::test(start_paused = true)]
async fn a_session_that_was_given_up_has_a_successor_of_another_name() {
    let mut net = Net::of(&["a"]);
    let client = client(&net);
    let (_guard, stream) = hold(&mut net, &client, 7).await;
    let first = stream.seen().session;
    let reason = v1::LossReason::Expired.into();
    stream.tell(Told::Ended(v1::Ended { reason })).await;
    let ctx = background(&client);
    let serving = async {
        let mut stream = net.at("a").attach(TTL).await;
        stream.grant_next(8).await;
        stream
    };
    let (next, stream) = tokio::join!(client.lock("b").acquire(&ctx), serving);
    let second = stream.seen().session;
    assert!(next.is_ok() && first.session_id != second.session_id && first.secret != second.secret);
    assert_eq!(second.stream, 1);
}

#[tokio::test(start_paused = true)]
async fn a_release_that_is_not_durable_is_sent_again_when_the_session_resumes() {
    let mut net = Net::of(&["a", "b"]);
    let client = client(&net);
    let ctx = background(&client);
    let (guard, mut stream) = hold(&mut net, &client, 7).await;
    let durable = release_early(guard, &mut stream, 40, 40).await;
    let (guard, ()) = tokio::join!(client.lock("b").acquire(&ctx), async {
        stream.grant_next(8).await;
    });
    let undone = release_early(guard.unwrap(), &mut stream, 41, 40).await;
    drop(stream);
    // It comes ahead of acquires: a try must not find the session's own entry.
    let serving = async {
        let mut stream = net.at("b").resume(vec![entry(&undone, 8, true)]).await;
        assert_eq!(stream.expect_release().await, undone);
        let seen = stream.seen();
        assert!(seen.open.contains(&undone) && !seen.open.contains(&durable));
        assert_eq!(seen.session.stream, 2);
        let answer = release_answer(undone.clone(), ReleaseOutcome::Released, 50);
        stream.tell_all([answer], 50).await;
        stream.grant_next(9).await;
        stream
    };
    let (tried, stream) = tokio::join!(client.lock("b").try_acquire(&ctx), serving);
    let guard = tried.unwrap().unwrap();
    drop(stream);
    let stream = net.at("a").accept().await;
    assert!(guard.check().is_ok());
    drop(stream);
}

#[tokio::test(start_paused = true)]
async fn a_resume_names_all_that_is_open() {
    let mut net = Net::of(&["a", "b"]);
    let client = client(&net);
    let ctx = background(&client);
    let (held, mut stream) = hold(&mut net, &client, 7).await;
    let (releasing, ()) = tokio::join!(client.lock("b").acquire(&ctx), async {
        stream.grant_next(8).await;
    });
    drop(releasing);
    let released = stream.expect_release().await;
    let serving = async {
        let waiting = stream.expect_acquire().await.request_id;
        stream.queued(waiting.clone(), "api-7", 1, 1).await;
        drop(stream);
        let stream = net.at("b").resume(vec![]).await;
        let open = stream.seen().open;
        assert_eq!(open.len(), 3, "one waits, one is held, one is released");
        assert!(open.contains(&waiting) && open.contains(&released));
    };
    let waiting = client.lock("c").acquire(&ctx);
    tokio::select! {
        _ = waiting => panic!("nothing was granted"),
        () = within_patience(serving) => {}
    }
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn the_last_releases_and_the_end_of_the_session_leave_in_one_frame() {
    let mut net = Net::of(&["a"]);
    let client = client(&net);
    let (guard, mut stream) = hold(&mut net, &client, 7).await;
    drop(guard);
    let serving = async {
        stream.expect_release().await;
        stream.expect_close().await;
        assert_eq!(stream.seen().frames, [2, 2]);
        let reason = v1::LossReason::Closed.into();
        stream.tell(Told::Ended(v1::Ended { reason })).await;
    };
    within_patience(async { tokio::join!(client.shutdown(), serving) }).await;
}

/// Holds a lock with a client of its own while its only server goes away, at this phase of its
/// keepalives, and comes back with this much of the lease left. Says whether the lock survived.
async fn survives(phase: Duration, left: Duration) -> bool {
    let mut net = Net::of(&["a"]);
    let client: Client = client(&net);
    let (guard, stream) = hold(&mut net, &client, 7).await;
    tokio::time::sleep(phase).await;
    net.refuse("a");
    let id = stream.seen().acquired;
    drop(stream);
    tokio::time::sleep(guard.remaining().saturating_sub(left)).await;
    net.listen("a");
    let serving = async {
        let _stream = net.at("a").resume(vec![entry(&id, 7, true)]).await;
        tokio::time::sleep(TTL).await;
    };
    tokio::select! {
        _ = guard.lost() => false,
        () = serving => true,
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_loses_nothing_while_the_lease_can_still_be_renewed() {
    for phase in (0..12).map(|n| Duration::from_millis(250 * n)) {
        assert!(survives(phase, Duration::from_secs(1)).await, "{phase:?}");
    }
}
