//! Two replicas on one log: what an old one still has under way lands late.

use super::{shared::SharedLog, *};
use crate::{
    core::{
        answer::Answer,
        ask::{Ask, Hello},
    },
    record::ReplicaId,
};

const R1: ReplicaId = ReplicaId(1);
const R2: ReplicaId = ReplicaId(2);

/// Two replicas, and a session that a stream or connection with the number 1 has opened at the first.
struct Two {
    log: SharedLog,
    one: Replica,
    other: Replica,
    by: Credential,
}

impl Two {
    async fn new() -> Self {
        let log = SharedLog::default();
        let one = Replica::sharing(log.join(R1)).await;
        let other = Replica::sharing(log.join(R2)).await;
        let by = one.session(LONG).await;
        Self { log, one, other, by }
    }

    fn by(&self, stream: u64) -> Credential {
        Credential { stream, ..self.by }
    }

    /// Acquires at the first replica, which is cut off: it lands late.
    async fn acquires_late(&self, stream: u64, request: RequestId) -> JoinHandle<Answered> {
        self.log.cut_off(R1);
        let late = self.one.acquire_as(self.by(stream), &wanted("x", ""), request);
        while self.log.late() == 0 {
            tokio::task::yield_now().await;
        }
        late
    }

    async fn gives_back(&self, stream: u64, request: RequestId, reply: &AcquireReply) {
        let AcquireReply::Granted { token, .. } = reply else { panic!("{reply:?}") };
        let named = (lock("x"), FencingToken::new(token.0).unwrap());
        let by = self.by(stream);
        let release = |reply| Call::Release(by, request, named, reply);
        self.other.core.call(release).await.unwrap();
    }
}

/// RULES J27: numbered calls need nothing to be remembered.
#[tokio::test(start_paused = true)]
async fn a_late_acquire_of_an_older_connection_makes_no_entry() {
    for number in [1, 0] {
        let two = Two::new().await;
        let request = RequestId::random();
        two.one.holds(two.by(number), &wanted("other", "")).await;
        let late = two.acquires_late(number, request).await;
        let next = if number == 0 { 0 } else { number + 1 };
        let granted = two.other.acquire_as(two.by(next), &wanted("x", ""), request);
        let granted = granted.await.unwrap().unwrap();
        two.gives_back(next, request, &granted).await;
        two.log.reunite();
        let answered = late.await.unwrap();
        match number {
            0 => assert_eq!(refusal(&answered.unwrap()), Some(&Refusal::Cancelled)),
            _ => assert!(matches!(answered, Err(Error::Superseded)), "{answered:?}"),
        }
        assert_eq!(two.other.len("x").await, 0);
        assert_eq!(two.other.len("other").await, 1, "what is held stays");
    }
}

/// RULES J26, J27: BUSY is not remembered. A late copy of a try by an older connection is granted nothing; where
/// calls are not numbered it may be, and its own caller hears so.
#[tokio::test(start_paused = true)]
async fn a_late_try_after_busy_is_granted_to_no_older_connection() {
    for number in [1, 0] {
        let two = Two::new().await;
        let request = RequestId::random();
        two.one.holds(two.by(number), &wanted("other", "")).await;
        let late = two.acquires_late(number, request).await;
        let holder = two.other.session(LONG).await;
        two.other.holds(holder, &wanted("x", "")).await;
        let next = if number == 0 { 0 } else { number + 1 };
        let attempt = Wanted { wait: Wait::Not, ..wanted("x", "") };
        let busy = two.other.acquire_as(two.by(next), &attempt, request).await.unwrap().unwrap();
        assert!(matches!(refusal(&busy), Some(Refusal::Busy(_))), "{busy:?}");
        two.other.close(holder).await;
        two.log.reunite();
        let answered = late.await.unwrap();
        if number == 0 {
            assert!(is_granted(&answered.unwrap()), "its caller holds it");
            assert_eq!(two.other.len("x").await, 1);
        } else {
            assert!(matches!(answered, Err(Error::Superseded)), "{answered:?}");
            assert_eq!(two.other.len("x").await, 0);
        }
    }
}

/// RULES J25: an old replica's limit ends no wait that was asked for anew.
#[tokio::test(start_paused = true)]
async fn a_wait_that_is_over_at_an_old_replica_goes_on_at_the_next() {
    for number in [1, 0] {
        let two = Two::new().await;
        let (holder, request) = (two.other.session(LONG).await, RequestId::random());
        two.other.holds(holder, &wanted("x", "")).await;
        let short = Wanted { wait: Wait::Within(1000), ..wanted("x", "") };
        let first = two.one.acquire_as(two.by(number), &short, request);
        two.other.queued("x", 2).await;
        two.log.cut_off(R1);
        tokio::time::sleep(2 * SECOND).await;
        assert_eq!(two.log.late(), 1, "the end of the wait is under way");
        let next = if number == 0 { 0 } else { number + 1 };
        let retry = two.other.acquire_as(two.by(next), &wanted("x", ""), request);
        // A read of the same replica comes after what was asked of it before.
        two.other.queued("x", 2).await;
        two.other.holds(two.by(next), &wanted("other", "")).await;
        two.log.reunite();
        two.one.holds(two.one.session(LONG).await, &wanted("another", "")).await;
        two.other.close(holder).await;
        assert!(is_granted(&retry.await.unwrap().unwrap()));
        assert!(is_granted(&first.await.unwrap().unwrap()), "it is the same entry");
        tokio::time::sleep(SECOND).await;
        assert_eq!(two.other.len("x").await, 1);
    }
}

/// RULES J24: the wait of a call to a replica that is gone ends in time, numbered or not.
#[tokio::test(start_paused = true)]
async fn a_wait_that_no_replica_counts_any_more_ends() {
    for number in [1, 0] {
        let two = Two::new().await;
        let (holder, request) = (two.other.session(LONG).await, RequestId::random());
        two.other.holds(holder, &wanted("x", "")).await;
        let waiting = two.one.acquire_as(two.by(number), &wanted("x", ""), request);
        two.other.queued("x", 2).await;
        two.one.end.cancel();
        assert!(waiting.await.unwrap().is_err());
        two.log.leave(R1);
        // Its client lives on, and has forgotten it.
        let next = if number == 0 { 0 } else { number + 1 };
        two.other.holds(two.by(next), &wanted("other", "")).await;
        tokio::time::sleep(LONG - 10 * SECOND).await;
        let by = two.by(next);
        two.other.core.call(|reply| Call::KeepAlive(by, reply)).await.unwrap();
        let keeps = |by| two.other.core.call(move |reply| Call::KeepAlive(by, reply));
        keeps(holder).await.unwrap();
        assert_eq!(two.other.len("x").await, 2);
        tokio::time::sleep(LONG / 10).await;
        assert_eq!(two.other.len("x").await, 1, "number {number}");
        assert_eq!(two.other.len("other").await, 1, "what is held stays");
    }
}

fn acquire(request: RequestId, wait: Wait) -> Ask {
    let (locks, mode, info) = (vec![lock("x")], Mode::Exclusive, Info::default());
    Ask::Acquire(Box::new(Acquire { request, locks, mode, wait, lock_delay_ms: 0, info }))
}

async fn answers(stream: &StreamHandle) -> Vec<Answer> {
    let answers = stream.answers();
    poll_fn(|cx| answers.poll_frame(cx)).await.map_or(vec![], |frame| frame.answers)
}

/// What an older stream has under way comes before what the next one asks for: BUSY is not said of what was
/// there before, or an entry would follow it that no client waits for.
#[tokio::test(start_paused = true)]
async fn a_try_on_a_resumed_stream_takes_out_what_the_stream_before_has_under_way() {
    let two = Two::new().await;
    let (holder, request) = (two.other.session(LONG).await, RequestId::random());
    two.other.holds(holder, &wanted("x", "")).await;
    let resume = |stream, open| Hello::Resume { by: two.by(stream), open, durable: Position(0) };
    let first = two.one.core.attach(resume(1, vec![]), vec![]).await.unwrap();
    two.log.cut_off(R1);
    first.frame(vec![acquire(request, Wait::Forever)]).await.unwrap();
    while two.log.late() == 0 {
        tokio::task::yield_now().await;
    }
    drop(first);
    let tries = vec![acquire(request, Wait::Not)];
    let again = two.one.core.attach(resume(2, vec![request]), tries);
    let mut again = std::pin::pin!(again);
    // Time for a barrier to be passed.
    assert!(tokio::time::timeout(SECOND, &mut again).await.is_err());
    two.log.reunite();
    let again = again.await.unwrap();
    let mut refused = 0;
    while refused == 0 {
        let all = answers(&again).await;
        assert!(!all.is_empty());
        let busy = |it: &&Answer| matches!(it, Answer::Refused(id, why) if *id == request && matches!(**why, Refusal::Busy(_)));
        refused += all.iter().filter(busy).count();
    }
    assert_eq!(two.one.len("x").await, 1, "the holder's");
}

/// RULES T10, J17.
#[tokio::test(start_paused = true)]
async fn a_client_that_knows_more_of_the_log_than_there_is_loses_its_session() {
    let two = Two::new().await;
    let resume = |stream, durable| Hello::Resume { by: two.by(stream), open: vec![], durable };
    let stream = two.one.core.attach(resume(1, Position(0)), vec![]).await.unwrap();
    let answers = stream.answers();
    let frame = poll_fn(|cx| answers.poll_frame(cx)).await.unwrap();
    assert!(frame.durable > Position(0));
    // Another replica knows as much, or waits until it does.
    let next = two.other.core.attach(resume(2, frame.durable), vec![]).await;
    assert!(next.is_ok());
    let beyond = Position(frame.durable.0 + (1 << 20));
    let refused = two.other.core.attach(resume(3, beyond), vec![]).await.unwrap_err();
    assert!(
        matches!(refused, Error::LogRestored { durable, .. } if durable == beyond),
        "{refused}"
    );
    assert!(
        two.other.core.status().snapshot().not_ready.is_none(),
        "a client's word stops no replica"
    );
}
