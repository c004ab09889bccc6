//! What goes wrong in a run, by its seed: everything at random, or the schedules that broke a draft of the
//! rules.

use std::time::Duration;

use super::world::{Cut, Dice, Faults, Node, Span};

/// Who takes part, and what happens to them.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) store_rate: f64,
    pub(super) replica_rates: Vec<f64>,
    /// The clients' clocks, their TTLs, and whether they have streams.
    pub(super) clients: Vec<(f64, Duration, bool)>,
    pub(super) faults: Faults,
}

const REPLICAS: usize = 3;
const CLIENTS: usize = 4;

/// How long a client is cut off whose session is to end meanwhile, and one of [`LONG_TTL`].
const AWAY: Duration = Duration::from_secs(20);
const LONG_AWAY: Duration = Duration::from_secs(34);

/// A TTL over which clocks that are 2 % wrong take more than a margin's fixed part.
const LONG_TTL: Duration = Duration::from_secs(30);

impl Plan {
    pub(super) fn roll(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let store_rate = rate(&mut dice);
        let replica_rates = (0..REPLICAS).map(|_| rate(&mut dice)).collect();
        let clients = (0..CLIENTS).map(|_| {
            let ttl = match seed % 8 {
                5 => LONG_TTL,
                _ => Duration::from_secs(dice.pick(&[2, 5, 10])),
            };
            (rate(&mut dice), ttl, dice.below(2) > 0)
        });
        let clients = clients.collect();
        let faults = match seed % 8 {
            0 => a_lagging_watch(&mut dice),
            1 => a_move_that_is_not_seen(&mut dice),
            2 => a_late_resume(&mut dice),
            3 => a_resume_by_way_of_another(&mut dice),
            4 => without_the_store(&mut dice),
            5 => nothing_but_clocks(&mut dice),
            _ => at_random(&mut dice),
        };
        Self { store_rate, replica_rates, clients, faults }
    }
}

/// How fast a clock is: up to 2 % wrong, and mostly that much.
fn rate(dice: &mut Dice) -> f64 {
    let between = 0.98 + 0.04 * dice.share();
    dice.pick(&[0.98, 1.02, between])
}

fn span(start: Duration, length: Duration) -> Span {
    (start, start + length)
}

fn cut_off(faults: &mut Faults, node: Node, span: Span) {
    faults.cuts.push(Cut { from: None, to: Some(node), span });
    faults.cuts.push(Cut { from: Some(node), to: None, span });
}

fn cut_off_clients(faults: &mut Faults, dice: &mut Dice, (from, to): Span) {
    for client in 0..CLIENTS {
        let at = dice.seconds(from.as_secs_f64(), to.as_secs_f64());
        cut_off(faults, Node::Client(client), span(at, AWAY));
    }
}

/// RULES L1: a replica whose watch lags answers for a session that has moved.
fn a_lagging_watch(dice: &mut Dice) -> Faults {
    let mut faults = Faults::default();
    let (at, lag) = (dice.seconds(6.0, 14.0), dice.seconds(0.3, 6.0));
    faults.lags.push((dice.below(REPLICAS), span(at, lag)));
    cut_off_clients(&mut faults, dice, (at, at + lag));
    faults
}

/// RULES L1: a replica does not know that a session has moved, and is the only one that its client still
/// reaches.
fn a_move_that_is_not_seen(dice: &mut Dice) -> Faults {
    let mut faults = Faults::default();
    let (at, lag) = (dice.seconds(6.0, 10.0), dice.seconds(2.0, 11.0));
    let lagging = dice.below(REPLICAS);
    faults.lags.push((lagging, span(at, lag)));
    for client in 0..CLIENTS {
        let (moved, node) = (at + dice.seconds(0.2, 1.8), Some(Node::Client(client)));
        for replica in (0..REPLICAS).filter(|replica| *replica != lagging) {
            let replica = Some(Node::Replica(replica));
            faults.cuts.push(Cut { from: node, to: replica, span: span(moved, lag) });
            faults.cuts.push(Cut { from: replica, to: node, span: span(moved, lag) });
        }
    }
    cut_off_clients(&mut faults, dice, (at + lag * 3 / 4, at + lag));
    faults
}

/// RULES L2: a resume lies in a paused replica, which attaches its session when that has moved on.
fn a_late_resume(dice: &mut Dice) -> Faults {
    let mut faults = Faults::default();
    let (at, pause) = (dice.seconds(6.0, 14.0), dice.seconds(0.3, 4.0));
    let paused = dice.below(REPLICAS);
    faults.pauses.push((Node::Replica(paused), span(at, pause)));
    let lagging = (paused + 1 + dice.below(REPLICAS - 1)) % REPLICAS;
    faults.lags.push((lagging, span(at + pause / 2, pause / 2 + Duration::from_secs(4))));
    cut_off_clients(&mut faults, dice, (at + pause, at + pause + Duration::from_secs(4)));
    faults
}

/// The same, while a second replica is cut off, so that the client has gone to the third one.
fn a_resume_by_way_of_another(dice: &mut Dice) -> Faults {
    let mut faults = Faults::default();
    let (at, pause) = (dice.seconds(6.0, 14.0), dice.seconds(1.2, 4.0));
    let first = dice.below(REPLICAS);
    let (second, third) = ((first + 1) % REPLICAS, (first + 2) % REPLICAS);
    faults.pauses.push((Node::Replica(first), span(at, pause)));
    cut_off(&mut faults, Node::Replica(second), span(at, dice.seconds(0.8, 1.5)));
    let lag = span(at + pause - Duration::from_millis(50), Duration::from_secs(4));
    faults.lags.push((third, lag));
    cut_off_clients(&mut faults, dice, (at + pause, at + pause + Duration::from_secs(4)));
    faults
}

/// RULES L4: replicas lose the store, and clients their replicas when those are about to fall silent.
fn without_the_store(dice: &mut Dice) -> Faults {
    let mut faults = Faults::default();
    let at = dice.seconds(6.0, 14.0);
    let some = dice.below(REPLICAS);
    for replica in 0..REPLICAS {
        if replica == some || dice.share() < 0.7 {
            let (away, node) = (span(at, dice.seconds(4.0, 12.0)), Some(Node::Replica(replica)));
            faults.cuts.push(Cut { from: node, to: Some(Node::Store), span: away });
            faults.cuts.push(Cut { from: Some(Node::Store), to: node, span: away });
        }
    }
    let soon = (at + Duration::from_secs(2), at + Duration::from_secs(6));
    cut_off_clients(&mut faults, dice, soon);
    faults
}

/// Clients are cut off, and nothing else happens: what is left are clocks that are wrong.
fn nothing_but_clocks(dice: &mut Dice) -> Faults {
    let mut faults = Faults::default();
    for client in 0..CLIENTS {
        let at = dice.seconds(6.0, 14.0);
        cut_off(&mut faults, Node::Client(client), span(at, LONG_AWAY));
    }
    faults
}

fn at_random(dice: &mut Dice) -> Faults {
    let mut faults = Faults::default();
    for _ in 0..3 + dice.below(6) {
        let at = dice.seconds(4.0, 16.0);
        let longest = dice.pick(&[3.0, 10.0]);
        let span = span(at, dice.seconds(0.3, longest));
        let (replica, client) = (dice.below(REPLICAS), dice.below(CLIENTS));
        match dice.below(11) {
            0 => faults.pauses.push((Node::Replica(replica), span)),
            1 => faults.pauses.push((Node::Client(client), span)),
            2 => one_way_or_both(&mut faults, dice, (Node::Replica(replica), Node::Store), span),
            3 => {
                let ends = (Node::Replica(replica), Node::Client(client));
                one_way_or_both(&mut faults, dice, ends, span);
            }
            4 => cut_off(&mut faults, Node::Client(client), span),
            5 => faults.outages.push(span),
            6 => faults.crashes.push((replica, span)),
            7 | 8 => faults.lags.push((replica, span)),
            9 => cut_off(&mut faults, Node::Store, span),
            _ => faults.deaths.push((client, at)),
        }
    }
    faults
}

fn one_way_or_both(faults: &mut Faults, dice: &mut Dice, (a, b): (Node, Node), span: Span) {
    let ways = dice.below(3);
    if ways != 0 {
        faults.cuts.push(Cut { from: Some(a), to: Some(b), span });
    }
    if ways != 1 {
        faults.cuts.push(Cut { from: Some(b), to: Some(a), span });
    }
}
