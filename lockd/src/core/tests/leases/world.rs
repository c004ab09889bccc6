//! What happens to messages and processes: latencies, cuts, pauses, all known beforehand.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::{Instant, sleep, sleep_until};

/// Random numbers by seed.
#[derive(Debug, Clone)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number (splitmix64).
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 to 1.
    pub(super) fn share(&mut self) -> f64 {
        let high = u32::try_from(self.next() >> 32).unwrap();
        f64::from(high) / f64::from(u32::MAX)
    }

    /// A duration between two, in seconds.
    pub(super) fn seconds(&mut self, from: f64, to: f64) -> Duration {
        Duration::from_secs_f64(from + (to - from) * self.share())
    }

    pub(super) fn below(&mut self, count: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(count).unwrap()).unwrap()
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    pub(super) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.next().to_le_bytes()[0])
    }
}

/// A process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Node {
    Store,
    Replica(usize),
    Client(usize),
}

/// From when to when.
pub(super) type Span = (Duration, Duration);

/// A way that is cut. `None` is every node.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cut {
    pub(super) from: Option<Node>,
    pub(super) to: Option<Node>,
    pub(super) span: Span,
}

/// Everything that goes wrong in one run.
#[derive(Debug, Clone, Default)]
pub(super) struct Faults {
    pub(super) cuts: Vec<Cut>,
    pub(super) pauses: Vec<(Node, Span)>,
    /// The store answers nothing, and ends no lease.
    pub(super) outages: Vec<Span>,
    /// A replica's watch brings nothing.
    pub(super) lags: Vec<(usize, Span)>,
    /// A replica's process dies, and another one takes its place.
    pub(super) crashes: Vec<(usize, Span)>,
    /// A client dies.
    pub(super) deaths: Vec<(usize, Duration)>,
}

/// One run.
pub(super) struct World {
    start: Instant,
    faults: Faults,
    dice: Mutex<Dice>,
}

fn within(span: &Span, now: Duration) -> bool {
    span.0 <= now && now < span.1
}

impl World {
    pub(super) fn new(faults: Faults, dice: Dice) -> Self {
        Self { start: Instant::now(), faults, dice: Mutex::new(dice) }
    }

    pub(super) fn faults(&self) -> &Faults {
        &self.faults
    }

    pub(super) fn now(&self) -> Duration {
        self.start.elapsed()
    }

    pub(super) async fn reaches(&self, at: Duration) {
        sleep_until(self.start + at).await;
    }

    pub(super) fn roll<T>(&self, roll: impl FnOnce(&mut Dice) -> T) -> T {
        roll(&mut self.dice.lock())
    }

    /// How long a message takes: mostly a moment, now and then up to 2 s.
    fn latency(&self) -> Duration {
        self.roll(|dice| match dice.share() {
            rare if rare > 0.998 => dice.seconds(0.4, 2.0),
            few if few > 0.97 => dice.seconds(0.005, 0.4),
            _ => dice.seconds(0.0005, 0.005),
        })
    }

    fn cut_until(&self, from: Node, to: Node) -> Option<Duration> {
        let now = self.now();
        let concerns = |end: Option<Node>, node| end.is_none_or(|end| end == node);
        let cuts = self.faults.cuts.iter();
        let cuts = cuts.filter(|cut| concerns(cut.from, from) && concerns(cut.to, to));
        cuts.filter(|cut| within(&cut.span, now)).map(|cut| cut.span.1).max()
    }

    /// A message of its own is on its way. `false` if it is lost: half of those that meet a cut are, the
    /// others arrive after it.
    pub(super) async fn passes(&self, from: Node, to: Node) -> bool {
        if let Some(until) = self.cut_until(from, to) {
            if self.roll(Dice::share) < 0.5 {
                return false;
            }
            self.reaches(until + self.roll(|dice| dice.seconds(0.0, 0.3))).await;
        }
        sleep(self.latency()).await;
        true
    }

    /// A piece of a stream is on its way: it waits for as long as the way is cut.
    pub(super) async fn flows(&self, from: Node, to: Node) {
        while let Some(until) = self.cut_until(from, to) {
            self.reaches(until + self.roll(|dice| dice.seconds(0.0, 0.3))).await;
        }
        sleep(self.latency()).await;
    }

    pub(super) fn is_store_away(&self) -> bool {
        let now = self.now();
        self.faults.outages.iter().any(|span| within(span, now))
    }

    /// Whether the watch of a replica brings nothing at this moment.
    pub(super) fn lags(&self, replica: usize) -> bool {
        let now = self.now();
        let lags = self.faults.lags.iter();
        lags.filter(|(index, _)| *index == replica).any(|(_, span)| within(span, now))
            || self.is_store_away()
            || self.cut_until(Node::Store, Node::Replica(replica)).is_some()
    }

    fn paused_until(&self, node: Node) -> Option<Duration> {
        let now = self.now();
        let pauses =
            self.faults.pauses.iter().filter(|(it, span)| *it == node && within(span, now));
        pauses.map(|(_, span)| span.1).max()
    }

    /// Runs a part of a node's process, which stands still while that is paused.
    pub(super) async fn run<F: Future>(&self, node: Node, part: F) -> F::Output {
        let mut part = pin!(part);
        let mut wake = None;
        poll_fn(|cx| {
            while let Some(until) = self.paused_until(node) {
                let mut sleeping = Box::pin(sleep_until(self.start + until));
                if sleeping.as_mut().poll(cx).is_pending() {
                    wake = Some(sleeping);
                    return Poll::Pending;
                }
            }
            wake = None;
            part.as_mut().poll(cx)
        })
        .await
    }
}
