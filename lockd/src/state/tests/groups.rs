//! Wait groups.

use super::*;

fn share(by: u8, number: u8, on_loss: OnLoss) -> Enqueue {
    Enqueue { mode: Mode::Share(on_loss), ..ask(by, number, "x") }
}

/// The stages of a group's shares.
fn stages(log: &Log) -> Vec<Stage> {
    let page = Page { after: Position(0), entries: 99, bytes: 9999 };
    let page = log.state.queue_page(&lock("x"), page);
    page.into_iter().flat_map(|page| page.entries).map(|it| it.entry.stage).collect()
}

#[test]
fn shares_are_held_at_once_and_given_back_one_by_one() {
    let mut log = Log::new();
    for (by, number) in [(A, 1), (B, 2), (B, 3)] {
        log.granted(Enqueue { wait: Waits::Not, ..share(by, number, OnLoss::Fail) });
    }
    assert_eq!(log.release(B, 2), Outcome::Released { is_plain: false });
    assert_eq!(log.release(A, 1), Outcome::Released { is_plain: false });
    log.release(B, 3);
    assert_eq!(log.state.counts().locks, 0, "the group is done");
    assert_eq!(log.changed(), ["x"]);
}

#[test]
fn a_share_that_is_given_back_at_its_loss_is_gone() {
    let mut log = Log::new();
    log.granted(share(A, 1, OnLoss::Release));
    log.granted(share(B, 2, OnLoss::Release));
    log.dies(A);
    assert_eq!(log.holders("x"), [(B, 2)]);
    log.cancel(B, 2);
    assert_eq!(log.state.counts().locks, 0);
}

#[test]
fn a_share_that_is_lost_fails_its_group_until_an_operator_removes_it() {
    for how in 0..3 {
        let mut log = Log::new();
        let token = log.granted(share(A, 1, OnLoss::Fail));
        log.granted(share(B, 2, OnLoss::Fail));
        match how {
            0 => log.dies(A),
            1 => log.closes(A),
            _ => assert_eq!(log.cancel(A, 1), Outcome::Cancelled),
        }
        assert!(log.heard().is_empty());
        assert_eq!(log.changed(), ["x"]);
        assert_eq!(stages(&log), [Stage::Lost, Stage::Here]);
        log.release(B, 2);
        assert_eq!(stages(&log), [Stage::Lost]);
        let Outcome::Forced(removed) = log.force("x", token) else { panic!("it is there") };
        assert_eq!(removed.entry.stage, Stage::Lost);
        assert!(log.heard().is_empty(), "its client has given it up: {:?}", log.heard());
        assert_eq!(log.state.counts().locks, 0);
    }
}

#[test]
fn a_share_whose_grant_was_never_sent_is_none_that_is_lost() {
    let mut log = Log::new();
    let token = log.granted(share(A, 1, OnLoss::Fail));
    log.end_wait("x", token, token, WaitEnd::Abandoned);
    assert!(log.heard().is_empty());
    assert_eq!(stages(&log), []);
}

#[test]
fn a_share_that_is_lost_is_no_request_any_more() {
    let mut log = Log::new();
    log.granted(share(A, 1, OnLoss::Fail));
    log.cancel(A, 1);
    assert_eq!(log.release(A, 1), Outcome::AlreadyLost);
    assert_eq!(log.session(A).entries_len(), 0);
    log.granted(share(A, 1, OnLoss::Fail));
    assert_eq!(stages(&log), [Stage::Lost, Stage::Here], "the id may be another's");
    log.dies(A);
    assert_eq!(stages(&log), [Stage::Lost, Stage::Lost]);
}

/// RULES J27: of a call that is not numbered a late copy may come.
#[test]
fn a_share_that_a_call_has_given_up_does_not_come_back() {
    let mut log = Log::new();
    let share = Enqueue { stream: 0, ..share(A, 1, OnLoss::Fail) };
    log.granted(share.clone());
    log.cancel_on(A, 0, 1);
    assert_eq!(log.ask(share), Outcome::Refused(Refusal::Cancelled));
    assert_eq!(stages(&log), [Stage::Lost]);
}

#[test]
fn force_takes_a_share_out_without_failing_its_group() {
    let mut log = Log::new();
    let token = log.granted(share(A, 1, OnLoss::Fail));
    log.force("x", token);
    assert_eq!(log.heard(), ["a/1 lost forced stuck"]);
    assert_eq!(stages(&log), []);
}
