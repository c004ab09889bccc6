//! Traces: what a replica tells of the requests that it took and that came with a sampled
//! `traceparent`. Nothing is decided by it.
//!
//! ```text
//! caller's span ─┬─ lockd.acquire   from the request to its answer; linked to the hold it waited for
//!                └─ lockd.hold      from the grant until the locks are given up or lost
//! ```
//!
//! The spans of a request are named by the halves of its id, so that any replica can link to the
//! hold of an entry that another one took.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use lockd_proto::{RequestId, SessionId, TraceParent};

use crate::{
    keys::{EntryId, LockId},
    requests::{Acquire, Reply},
    store::Revision,
    view::{Entry, HandoffReason},
};

/// The requests that are traced here, for as long as they are waited for or hold. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Traces(Option<Arc<Recorder>>);

/// What takes the spans. It must not wait: the view is locked meanwhile.
pub type Sink = Box<dyn Fn(Span) + Send + Sync>;

struct Recorder {
    open: Mutex<HashMap<EntryId, Open>>,
    sink: Sink,
}

/// A request of which there is more to tell.
#[derive(Debug, Clone)]
struct Open {
    parent: TraceParent,
    lock: LockId,
    began: SystemTime,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// It has no answer yet.
    Asked { link: Option<TraceParent>, entry: Seen },
    /// It holds its locks, by this token.
    Holds(Revision),
}

/// Whether the view can still tell the end of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Yet,
    Gone,
}

/// Something that took its time.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// What it was.
    pub name: &'static str,
    /// Its own place in the trace.
    pub place: TraceParent,
    /// The caller's span.
    pub parent: TraceParent,
    /// The hold that it waited for, of another trace as a rule.
    pub link: Option<TraceParent>,
    /// When it began, to be shown.
    pub began: SystemTime,
    /// When it ended, to be shown.
    pub ended: SystemTime,
    /// The lock, and the first one of several.
    pub lock: LockId,
    /// Who asked.
    pub session: SessionId,
    /// The fencing token, where there was a grant.
    pub token: Option<Revision>,
    /// How it ended, in the words of the metrics.
    pub outcome: &'static str,
    /// Whether somebody should look at it.
    pub verdict: Verdict,
}

/// Whether a span is as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is what the caller asked for, or a no that it asked for.
    Fine,
    /// It is a failure or a loss.
    Failed,
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("open", &self.open).finish_non_exhaustive()
    }
}

impl Traces {
    /// Traces whose spans go there.
    #[must_use]
    pub fn to(sink: Sink) -> Self {
        Self(Some(Arc::new(Recorder { open: Mutex::default(), sink })))
    }

    /// A session asks for locks here.
    pub(crate) fn asked(&self, session: SessionId, acquire: &Acquire) {
        let Some(recorder) = &self.0 else { return };
        let sampled = acquire.record.trace_parent().filter(TraceParent::is_sampled);
        let Some((parent, lock)) = sampled.zip(acquire.locks.first()) else { return };
        let phase = Phase::Asked { link: None, entry: Seen::Yet };
        let open = Open { parent, lock: lock.clone(), began: now(), phase };
        // A retry began when it was first asked for.
        recorder.open().entry(EntryId { session, request: acquire.request }).or_insert(open);
    }

    /// The client of a request is told this.
    pub(crate) fn told(&self, id: EntryId, reply: &Reply) {
        let Some(recorder) = &self.0 else { return };
        let answer = match reply {
            Reply::Granted { token } => Answer::Granted(*token),
            Reply::Refused { refusal, ahead } => {
                let holder = ahead.as_ref().and_then(|ahead| ahead.holder.as_ref());
                let link = holder.and_then(|holder| hold_of(&holder.entry));
                Answer::Ended(refusal.name(), Verdict::Fine, link)
            }
            Reply::Failed(_) => Answer::Ended("failed", Verdict::Failed, None),
            Reply::Queued(_)
            | Reply::Released(_)
            | Reply::Updated
            | Reply::YieldRequested(_)
            | Reply::Lost { .. } => return,
        };
        recorder.answered(id, &answer);
    }

    /// An entry is granted what another one gave up.
    pub(crate) fn handed_over(&self, to: EntryId, from: &Entry) {
        let Some(recorder) = &self.0 else { return };
        if let Some(Open { phase: Phase::Asked { link, .. }, .. }) = recorder.open().get_mut(&to) {
            *link = hold_of(from);
        }
    }

    /// An entry is gone, for this reason.
    pub(crate) fn gone(&self, id: EntryId, reason: impl FnOnce() -> HandoffReason) {
        let Some(recorder) = &self.0 else { return };
        let mut all = recorder.open();
        match all.get_mut(&id).map(|open| &mut open.phase) {
            // Its client will hear of it, and may have been granted it already.
            Some(Phase::Asked { entry, .. }) => *entry = Seen::Gone,
            Some(Phase::Holds(token)) => {
                let token = *token;
                let ended = all.remove(&id);
                drop(all);
                let reason = reason();
                let verdict = match reason {
                    HandoffReason::Expired | HandoffReason::Forced(_) => Verdict::Failed,
                    HandoffReason::Released
                    | HandoffReason::Yielded
                    | HandoffReason::Closed
                    | HandoffReason::Cancelled => Verdict::Fine,
                };
                ended.into_iter().for_each(|open| {
                    recorder.tell(open.hold(id, token, reason.name(), verdict));
                });
            }
            None => {}
        }
    }

    /// Nobody follows this request here any more: its session has ended, or goes on elsewhere. What it
    /// holds it still holds.
    pub(crate) fn abandoned(&self, id: EntryId) {
        let Some(recorder) = &self.0 else { return };
        recorder.answered(id, &Answer::Ended("abandoned", Verdict::Failed, None));
    }

    /// How many requests are open.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |recorder| recorder.open().len())
    }
}

/// What ends an acquire.
enum Answer {
    Granted(Revision),
    Ended(&'static str, Verdict, Option<TraceParent>),
}

impl Recorder {
    fn open(&self) -> MutexGuard<'_, HashMap<EntryId, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, span: Span) {
        (self.sink)(span);
    }

    fn answered(&self, id: EntryId, answer: &Answer) {
        let mut all = self.open();
        let Some(open) = all.get_mut(&id) else { return };
        let Phase::Asked { link, entry } = open.phase else { return };
        let span = open.acquire(id, answer, link);
        match answer {
            Answer::Granted(token) if entry == Seen::Yet => {
                open.phase = Phase::Holds(*token);
                open.began = span.ended;
            }
            Answer::Granted(_) | Answer::Ended(..) => drop(all.remove(&id)),
        }
        drop(all);
        self.tell(span);
    }
}

impl Open {
    fn acquire(&self, id: EntryId, answer: &Answer, handed: Option<TraceParent>) -> Span {
        let (token, outcome, verdict, held) = match answer {
            Answer::Granted(token) => (Some(*token), "granted", Verdict::Fine, None),
            Answer::Ended(outcome, verdict, held) => (None, *outcome, *verdict, *held),
        };
        let place = self.place(acquire_half(id.request));
        let link = handed.or(held);
        Span { link, token, ..self.span("lockd.acquire", (id, place), outcome, verdict) }
    }

    fn hold(&self, id: EntryId, token: Revision, outcome: &'static str, verdict: Verdict) -> Span {
        let place = self.place(hold_half(id.request));
        Span { token: Some(token), ..self.span("lockd.hold", (id, place), outcome, verdict) }
    }

    fn span(
        &self,
        name: &'static str,
        (id, place): (EntryId, TraceParent),
        outcome: &'static str,
        verdict: Verdict,
    ) -> Span {
        Span {
            name,
            place,
            parent: self.parent,
            link: None,
            began: self.began,
            ended: now(),
            lock: self.lock.clone(),
            session: id.session,
            token: None,
            outcome,
            verdict,
        }
    }

    fn place(&self, span: [u8; 8]) -> TraceParent {
        // A client may have sent an id whose half is all zeros, which would name no span.
        TraceParent::new(self.parent.trace_id(), span).unwrap_or(self.parent)
    }
}

/// The hold of an entry, if it is traced.
fn hold_of(entry: &Entry) -> Option<TraceParent> {
    let parent = entry.record.trace_parent().filter(TraceParent::is_sampled)?;
    TraceParent::new(parent.trace_id(), hold_half(entry.id.request))
}

fn acquire_half(request: RequestId) -> [u8; 8] {
    let [a, b, c, d, e, f, g, h, ..] = *request.as_bytes();
    [a, b, c, d, e, f, g, h]
}

fn hold_half(request: RequestId) -> [u8; 8] {
    let [.., a, b, c, d, e, f, g, h] = *request.as_bytes();
    [a, b, c, d, e, f, g, h]
}

/// Wall time, for a tracing system to show.
#[allow(clippy::disallowed_methods, reason = "it is shown, never decided upon")]
fn now() -> SystemTime {
    SystemTime::now()
}

#[cfg(test)]
mod tests;
