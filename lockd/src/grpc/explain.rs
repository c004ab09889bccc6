//! `LockService.Explain`: what a person needs to know to act.

use lockd_proto::{clock::Instant, v1};

use super::{lock::with_leases, translate};
use crate::{
    detector::Cycle,
    engine::Engine,
    error::Error,
    keys::LockId,
    view::{Handoff, HandoffReason},
};

pub(super) async fn explain(
    engine: &Engine,
    request: v1::ExplainRequest,
) -> Result<v1::ExplainResponse, Error> {
    let lock = translate::lock_id(&request.namespace, request.name)?;
    let now = engine.clock.now();
    let age = |at: Instant| translate::to_wire_duration(now.saturating_duration_since(at));
    let revision = engine.view.revision().0;
    let (held_since, last) = engine.view.story(&lock);
    let standing = Cycle::find(&engine.view).filter(|cycle| cycle.involves(&lock));
    let standing = standing.map(|cycle| cycle.to_wire());
    let ended = engine.view.deadlocks(&lock).into_iter();
    let ended = ended.map(|(at, deadlock)| v1::Deadlock { ended: Some(age(at)), ..deadlock });
    let queue = engine.view.queue(&lock);
    Ok(v1::ExplainResponse {
        lock: match &queue {
            Some(queue) => Some(with_leases(engine, queue).await?),
            None => None,
        },
        held_for: held_since.map(age),
        last_handoff: last.map(|last| v1::Handoff { age: Some(age(last.at)), ..to_handoff(last) }),
        deadlocks: standing.into_iter().chain(ended).collect(),
        result: engine.view.result(&lock).map(|result| result.to_vec()),
        revision,
    })
}

fn to_handoff(handoff: Handoff) -> v1::Handoff {
    let (reason, detail) = match handoff.reason {
        HandoffReason::Released => (v1::HandoffReason::Released, String::new()),
        HandoffReason::Yielded => (v1::HandoffReason::Yielded, String::new()),
        HandoffReason::Expired => (v1::HandoffReason::Expired, String::new()),
        HandoffReason::Closed => (v1::HandoffReason::Closed, String::new()),
        HandoffReason::Cancelled => (v1::HandoffReason::Cancelled, String::new()),
        HandoffReason::Forced(reason) => (v1::HandoffReason::Forced, reason),
    };
    let from = Some(translate::to_holder(&handoff.from));
    v1::Handoff { reason: reason.into(), from, age: None, detail }
}

pub(super) fn to_ref(lock: &LockId) -> v1::LockRef {
    v1::LockRef { namespace: lock.namespace().to_owned(), name: lock.name().to_owned() }
}
