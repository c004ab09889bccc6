use std::sync::mpsc::{Receiver, channel};

use lockd_proto::{LockName, Namespace};

use super::*;
use crate::{
    record::EntryRecord,
    requests::Refusal,
    view::{Ahead, Described},
};

const TOKEN: Revision = Revision(7);

fn recorded() -> (Traces, Receiver<Span>) {
    let (sender, spans) = channel();
    (Traces::to(Box::new(move |span| sender.send(span).unwrap())), spans)
}

fn lock() -> LockId {
    LockId::new(&Namespace::default(), &LockName::parse("l").unwrap())
}

fn record(traceparent: &str) -> Arc<EntryRecord> {
    Arc::new(EntryRecord { trace: traceparent.to_owned(), ..EntryRecord::default() })
}

fn parent(trace: u8, flags: u8) -> String {
    format!("00-{trace:032x}-00000000000000aa-{flags:02x}")
}

fn acquire(request: u8, traceparent: &str) -> Acquire {
    let request = RequestId::from_bytes([request; 16]);
    Acquire { request, locks: [lock()].into(), record: record(traceparent), max_wait: None }
}

fn session() -> SessionId {
    SessionId::from_bytes([1; 16])
}

fn id(request: u8) -> EntryId {
    EntryId { session: session(), request: RequestId::from_bytes([request; 16]) }
}

fn entry(request: u8, traceparent: &str) -> Arc<Entry> {
    Arc::new(Entry {
        locks: [lock()].into(),
        id: id(request),
        created: TOKEN,
        modified: TOKEN,
        mode: crate::mode::Mode::default(),
        seen: None,
        record: record(traceparent),
    })
}

fn granted() -> Reply {
    Reply::Granted { token: TOKEN }
}

#[test]
fn a_grant_and_its_hold_are_children_of_the_caller() {
    let (traces, spans) = recorded();
    traces.asked(session(), &acquire(2, &parent(9, 1)));
    traces.told(id(2), &granted());
    let acquired = spans.try_recv().unwrap();
    assert_eq!((acquired.name, acquired.outcome), ("lockd.acquire", "granted"));
    assert_eq!(acquired.parent.to_string(), parent(9, 1));
    assert_eq!(acquired.place.trace_id(), acquired.parent.trace_id());
    traces.told(id(2), &granted());
    assert!(spans.try_recv().is_err(), "a retry is told the same, and is the same span");
    traces.gone(id(2), || HandoffReason::Expired);
    let held = spans.try_recv().unwrap();
    assert_eq!((held.name, held.outcome), ("lockd.hold", "expired"));
    assert_eq!((held.token, held.verdict), (Some(TOKEN), Verdict::Failed));
    assert_eq!(held.began, acquired.ended);
    assert_eq!(traces.len(), 0);
}

#[test]
fn what_waited_is_linked_to_the_hold_that_it_waited_for() {
    let (traces, spans) = recorded();
    traces.asked(session(), &acquire(2, &parent(9, 1)));
    traces.told(id(2), &granted());
    traces.asked(session(), &acquire(3, &parent(8, 1)));
    traces.gone(id(2), || HandoffReason::Released);
    traces.handed_over(id(3), &entry(2, &parent(9, 1)));
    traces.told(id(3), &granted());
    let [_, held, waited] = [(); 3].map(|()| spans.try_recv().unwrap());
    assert_eq!(waited.link, Some(held.place));
    assert_ne!(waited.place.trace_id(), held.place.trace_id());
}

#[test]
fn a_refusal_is_linked_to_who_holds() {
    let (traces, spans) = recorded();
    traces.asked(session(), &acquire(3, &parent(8, 1)));
    let holder = Described { entry: entry(2, &parent(9, 1)), session: None };
    let ahead = Some(Box::new(Ahead { count: 1, holder: Some(holder) }));
    traces.told(id(3), &Reply::Refused { refusal: Refusal::WaitExpired, ahead });
    let refused = spans.try_recv().unwrap();
    assert_eq!((refused.outcome, refused.verdict), ("wait_expired", Verdict::Fine));
    assert_eq!(refused.link, hold_of(&entry(2, &parent(9, 1))));
    assert_eq!(traces.len(), 0);
}

#[test]
fn nothing_is_told_of_what_is_not_sampled_and_nothing_is_linked_to_it() {
    let (traces, spans) = recorded();
    for traceparent in [String::new(), parent(9, 0), "no trace".to_owned()] {
        traces.asked(session(), &acquire(2, &traceparent));
        traces.told(id(2), &granted());
        assert_eq!(hold_of(&entry(2, &traceparent)), None);
    }
    assert!(spans.try_recv().is_err());
    assert_eq!(traces.len(), 0);
}

#[test]
fn what_nobody_follows_any_more_is_not_kept() {
    let (traces, spans) = recorded();
    traces.asked(session(), &acquire(2, &parent(9, 1)));
    traces.abandoned(id(2));
    assert_eq!(spans.try_recv().unwrap().outcome, "abandoned");
    // A grant that was told after its entry had gone is none that lasts.
    traces.asked(session(), &acquire(3, &parent(9, 1)));
    traces.gone(id(3), || HandoffReason::Expired);
    traces.told(id(3), &granted());
    assert_eq!(traces.len(), 0);
}
