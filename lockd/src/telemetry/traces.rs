//! Traces: what a replica reports of the requests that it took and that came with a sampled
//! `traceparent`. No decision depends on it.
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

/// A request: its session and its id.
pub(crate) type RequestKey = (SessionId, RequestId);

/// What the client of a request hears.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Reported {
    /// It holds its locks, by this token.
    Granted(u64),
    /// It was refused.
    Refused {
        /// Why, in the words of the metrics.
        reason: &'static str,
        /// The hold that was in its way, if that is traced.
        holder: Option<TraceParent>,
    },
    /// It failed.
    Failed,
}

/// A lock, by its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockName {
    /// Its namespace.
    pub namespace: Box<str>,
    /// Its name.
    pub name: Box<str>,
}

/// The requests that are traced here, for as long as they are waited for or hold. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Traces(Option<Arc<SpanRecorder>>);

/// What takes the spans. It must not wait: the core calls it.
pub(crate) type Sink = Box<dyn Fn(Span) + Send + Sync>;

struct SpanRecorder {
    open: Mutex<HashMap<RequestKey, TracedRequest>>,
    sink: Sink,
}

/// A request of which there is more to tell.
#[derive(Debug, Clone)]
struct TracedRequest {
    parent: TraceParent,
    lock: LockName,
    began: SystemTime,
    phase: SpanPhase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SpanPhase {
    /// It has no answer yet.
    Asked { link: Option<TraceParent>, entry: EntryPresence },
    /// It holds its locks, by this token.
    Holds(u64),
}

/// Whether the view can still tell the end of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EntryPresence {
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
    pub lock: LockName,
    /// Who asked.
    pub session: SessionId,
    /// The fencing token, where there was a grant.
    pub token: Option<u64>,
    /// How it ended, in the words of the metrics.
    pub outcome: &'static str,
    /// Whether the span needs attention.
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

impl fmt::Debug for SpanRecorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpanRecorder").field("open", &self.open).finish_non_exhaustive()
    }
}

impl Traces {
    /// Traces whose spans go there.
    #[must_use]
    pub fn to(sink: Sink) -> Self {
        Self(Some(Arc::new(SpanRecorder { open: Mutex::default(), sink })))
    }

    /// A session asks for locks here: for the first of them, in the caller's span.
    pub fn asked(&self, id: RequestKey, lock: Option<(&str, &str)>, parent: Option<TraceParent>) {
        let Some(recorder) = &self.0 else { return };
        let sampled = parent.filter(TraceParent::is_sampled);
        let Some((parent, (namespace, name))) = sampled.zip(lock) else { return };
        let phase = SpanPhase::Asked { link: None, entry: EntryPresence::Yet };
        let lock = LockName { namespace: namespace.into(), name: name.into() };
        let open = TracedRequest { parent, lock, began: now(), phase };
        // A retry began when it was first asked for.
        recorder.open().entry(id).or_insert(open);
    }

    /// The client of a request hears this.
    pub fn told(&self, id: RequestKey, told: Reported) {
        let Some(recorder) = &self.0 else { return };
        let answer = match told {
            Reported::Granted(token) => Answer::Granted(token),
            Reported::Refused { reason, holder } => Answer::Ended(reason, Verdict::Fine, holder),
            Reported::Failed => Answer::Ended("failed", Verdict::Failed, None),
        };
        recorder.answered(id, &answer);
    }

    /// A request is granted what another one gave up, whose hold this is.
    pub fn handed_over(&self, to: RequestKey, hold: Option<TraceParent>) {
        let Some(recorder) = &self.0 else { return };
        if let Some(TracedRequest { phase: SpanPhase::Asked { link, .. }, .. }) =
            recorder.open().get_mut(&to)
        {
            *link = hold;
        }
    }

    /// A request's entry is gone that held its locks, for this reason.
    pub fn gone(&self, id: RequestKey, reason: &'static str) {
        let Some(recorder) = &self.0 else { return };
        let mut all = recorder.open();
        match all.get_mut(&id).map(|open| &mut open.phase) {
            // Its client will hear of it, and may have been granted it already.
            Some(SpanPhase::Asked { entry, .. }) => *entry = EntryPresence::Gone,
            Some(SpanPhase::Holds(token)) => {
                let token = *token;
                let ended = all.remove(&id);
                drop(all);
                let verdict = match reason {
                    "expired" | "forced" => Verdict::Failed,
                    _ => Verdict::Fine,
                };
                ended.into_iter().for_each(|open| {
                    recorder.tell(open.hold(id, token, reason, verdict));
                });
            }
            None => {}
        }
    }

    /// This request is not followed here any more: its session has ended, or goes on elsewhere. What it
    /// holds it still holds.
    pub fn abandoned(&self, id: RequestKey) {
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
    Granted(u64),
    Ended(&'static str, Verdict, Option<TraceParent>),
}

impl SpanRecorder {
    fn open(&self) -> MutexGuard<'_, HashMap<RequestKey, TracedRequest>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, span: Span) {
        (self.sink)(span);
    }

    fn answered(&self, id: RequestKey, answer: &Answer) {
        let mut all = self.open();
        let Some(open) = all.get_mut(&id) else { return };
        let SpanPhase::Asked { link, entry } = open.phase else { return };
        let span = open.acquire(id, answer, link);
        match answer {
            Answer::Granted(token) if entry == EntryPresence::Yet => {
                open.phase = SpanPhase::Holds(*token);
                open.began = span.ended;
            }
            Answer::Granted(_) | Answer::Ended(..) => drop(all.remove(&id)),
        }
        drop(all);
        self.tell(span);
    }
}

impl TracedRequest {
    fn acquire(&self, id: RequestKey, answer: &Answer, handed: Option<TraceParent>) -> Span {
        let (token, outcome, verdict, held) = match answer {
            Answer::Granted(token) => (Some(*token), "granted", Verdict::Fine, None),
            Answer::Ended(outcome, verdict, held) => (None, *outcome, *verdict, *held),
        };
        let place = self.place(acquire_half(id.1));
        let link = handed.or(held);
        Span { link, token, ..self.span("lockd.acquire", (id, place), outcome, verdict) }
    }

    fn hold(&self, id: RequestKey, token: u64, outcome: &'static str, verdict: Verdict) -> Span {
        let place = self.place(hold_half(id.1));
        Span { token: Some(token), ..self.span("lockd.hold", (id, place), outcome, verdict) }
    }

    fn span(
        &self,
        name: &'static str,
        (id, place): (RequestKey, TraceParent),
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
            session: id.0,
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

/// The hold of a request that was asked for in this span, if that is traced.
#[must_use]
pub(crate) fn hold_of(parent: Option<TraceParent>, request: RequestId) -> Option<TraceParent> {
    let parent = parent.filter(TraceParent::is_sampled)?;
    TraceParent::new(parent.trace_id(), hold_half(request))
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
