//! `LockService.Explain`: what a person needs to know to act.

use lockd_proto::v1;

use super::{Api, lock::to_found, translate};
use crate::{
    core::{answer::Deadlock, ask::Look, error::Error},
    record::{Blocked, Position},
    state::{Handoff, HandoffReason},
};

pub(super) async fn explain(
    api: &Api,
    request: v1::ExplainRequest,
) -> Result<v1::ExplainResponse, Error> {
    let lock = translate::lock_id(&request.namespace, request.name)?;
    let page = translate::page(request.page_size, Position::default());
    let explained = api.core.ask(|reply| Look::Explain(lock, page, reply)).await?;
    Ok(v1::ExplainResponse {
        lock: explained.found.as_ref().map(to_found),
        held_for: explained.held_for.map(translate::to_wire_duration),
        last_handoff: explained.handoff.map(|(handoff, age)| {
            let age = Some(translate::to_wire_duration(age));
            v1::Handoff { age, ..to_handoff(handoff) }
        }),
        deadlocks: explained.deadlocks.iter().map(to_deadlock).collect(),
        result: explained.result.map(|result| result.to_vec()),
        revision: explained.at.0,
    })
}

fn to_handoff(handoff: Handoff) -> v1::Handoff {
    let (reason, detail) = match handoff.reason {
        HandoffReason::Released => (v1::HandoffReason::Released, String::new()),
        HandoffReason::Yielded => (v1::HandoffReason::Yielded, String::new()),
        HandoffReason::Expired => (v1::HandoffReason::Expired, String::new()),
        HandoffReason::Closed => (v1::HandoffReason::Closed, String::new()),
        HandoffReason::Cancelled => (v1::HandoffReason::Cancelled, String::new()),
        HandoffReason::Forced(reason) => (v1::HandoffReason::Forced, reason.into()),
    };
    let from = Some(translate::to_holder(&handoff.from));
    v1::Handoff { reason: reason.into(), from, age: None, detail }
}

fn to_deadlock(deadlock: &Deadlock) -> v1::Deadlock {
    v1::Deadlock {
        cycle: deadlock.cycle.iter().map(to_wait).collect(),
        victim: deadlock.victim.0,
        ended: deadlock.ended.map(translate::to_wire_duration),
    }
}

fn to_wait(wait: &Blocked) -> v1::BlockedWait {
    v1::BlockedWait {
        owner: wait.owner.to_string(),
        lock: Some(translate::to_ref(&wait.lock)),
        token: wait.token.0,
        blocked_by: wait.blocked_by.to_string(),
    }
}
