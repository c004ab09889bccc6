use std::sync::mpsc::{Receiver, channel};

use super::*;

const TOKEN: u64 = 7;

fn recorded() -> (Traces, Receiver<Span>) {
    let (sender, spans) = channel();
    (Traces::to(Box::new(move |span| sender.send(span).unwrap())), spans)
}

fn parent(trace: u8, flags: u8) -> String {
    format!("00-{trace:032x}-00000000000000aa-{flags:02x}")
}

fn id(request: u8) -> RequestKey {
    (SessionId::from_bytes([1; 16]), RequestId::from_bytes([request; 16]))
}

fn acquire(traces: &Traces, request: u8, traceparent: &str) {
    traces.asked(id(request), Some(("default", "l")), traceparent.parse().ok());
}

fn hold(request: u8, traceparent: &str) -> Option<TraceParent> {
    hold_of(traceparent.parse().ok(), id(request).1)
}

#[test]
fn a_grant_and_its_hold_are_children_of_the_caller() {
    let (traces, spans) = recorded();
    acquire(&traces, 2, &parent(9, 1));
    traces.told(id(2), Reported::Granted(TOKEN));
    let acquired = spans.try_recv().unwrap();
    assert_eq!((acquired.name, acquired.outcome), ("lockd.acquire", "granted"));
    assert_eq!(acquired.parent.to_string(), parent(9, 1));
    assert_eq!(acquired.place.trace_id(), acquired.parent.trace_id());
    traces.told(id(2), Reported::Granted(TOKEN));
    assert!(spans.try_recv().is_err(), "a retry has the same answer, and is the same span");
    traces.gone(id(2), "expired");
    let held = spans.try_recv().unwrap();
    assert_eq!((held.name, held.outcome), ("lockd.hold", "expired"));
    assert_eq!((held.token, held.verdict), (Some(TOKEN), Verdict::Failed));
    assert_eq!(held.began, acquired.ended);
    assert_eq!(traces.len(), 0);
}

#[test]
fn what_waited_is_linked_to_the_hold_that_it_waited_for() {
    let (traces, spans) = recorded();
    acquire(&traces, 2, &parent(9, 1));
    traces.told(id(2), Reported::Granted(TOKEN));
    acquire(&traces, 3, &parent(8, 1));
    traces.gone(id(2), "released");
    traces.handed_over(id(3), hold(2, &parent(9, 1)));
    traces.told(id(3), Reported::Granted(TOKEN));
    let [_, held, waited] = [(); 3].map(|()| spans.try_recv().unwrap());
    assert_eq!(waited.link, Some(held.place));
    assert_ne!(waited.place.trace_id(), held.place.trace_id());
}

#[test]
fn a_refusal_is_linked_to_who_holds() {
    let (traces, spans) = recorded();
    acquire(&traces, 3, &parent(8, 1));
    let holder = hold(2, &parent(9, 1));
    traces.told(id(3), Reported::Refused { reason: "wait_expired", holder });
    let refused = spans.try_recv().unwrap();
    assert_eq!((refused.outcome, refused.verdict), ("wait_expired", Verdict::Fine));
    assert_eq!(refused.link, holder);
    assert_eq!(traces.len(), 0);
}

#[test]
fn what_is_not_sampled_has_no_span_and_nothing_is_linked_to_it() {
    let (traces, spans) = recorded();
    for traceparent in [String::new(), parent(9, 0), "no trace".to_owned()] {
        acquire(&traces, 2, &traceparent);
        traces.told(id(2), Reported::Granted(TOKEN));
        assert_eq!(hold(2, &traceparent), None);
    }
    assert!(spans.try_recv().is_err());
    assert_eq!(traces.len(), 0);
}

#[test]
fn what_is_not_followed_any_more_is_not_kept() {
    let (traces, spans) = recorded();
    acquire(&traces, 2, &parent(9, 1));
    traces.abandoned(id(2));
    assert_eq!(spans.try_recv().unwrap().outcome, "abandoned");
    // A grant whose entry had gone before its client heard of it is none that lasts.
    acquire(&traces, 3, &parent(9, 1));
    traces.gone(id(3), "expired");
    traces.told(id(3), Reported::Granted(TOKEN));
    assert_eq!(traces.len(), 0);
}
