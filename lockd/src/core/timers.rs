//! The core's timers, in one ordered set: leases, waits with a limit, lock-delays. Pure: the time
//! comes in as an argument.

use std::collections::{BTreeSet, HashMap};

use lockd_proto::{SessionId, clock::Instant};

use crate::record::{LockId, Position, WaitEnd};

/// What a timer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Timer {
    /// A session may have fallen silent.
    Lease(SessionId),
    /// A wait is over.
    Wait(Position),
    /// A lock-delay is over.
    Delay(Position),
    /// A deadlock may stand.
    Deadlock,
    /// What was appended lately is to be made durable.
    Settle,
    /// Something is looked at now and then.
    Tick,
}

/// What follows when a timer is due.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Due {
    /// What the timer's name says.
    Itself,
    /// A wait is ended, for this claim.
    EndWait { lock: LockId, claim: Position, why: WaitEnd },
    /// A lock-delay lapses that began there.
    Lapse { lock: LockId, since: Position },
}

/// Timers that are set. Setting one again replaces it.
#[derive(Debug, Default)]
pub(super) struct Timers {
    order: BTreeSet<(Instant, Timer)>,
    set: HashMap<Timer, (Instant, Due)>,
}

impl Timers {
    pub(super) fn set(&mut self, timer: Timer, at: Instant, due: Due) {
        self.clear(timer);
        self.order.insert((at, timer));
        self.set.insert(timer, (at, due));
    }

    pub(super) fn clear(&mut self, timer: Timer) {
        if let Some((at, _)) = self.set.remove(&timer) {
            self.order.remove(&(at, timer));
        }
    }

    pub(super) fn is_set(&self, timer: Timer) -> bool {
        self.set.contains_key(&timer)
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Takes the next timer that is due.
    pub(super) fn pop(&mut self, now: Instant) -> Option<(Timer, Due)> {
        let (at, timer) = *self.order.first()?;
        if at > now {
            return None;
        }
        self.order.pop_first();
        self.set.remove(&timer).map(|(_, due)| (timer, due))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lockd_proto::clock::Clock;

    use super::*;

    #[test]
    fn timers_come_in_their_order_and_leave_nothing() {
        let start = Clock::system().now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let wait = |token| Timer::Wait(Position(token));
        let mut timers = Timers::default();
        timers.set(wait(1), at(3), Due::Itself);
        timers.set(wait(2), at(1), Due::Itself);
        timers.set(wait(3), at(2), Due::Itself);
        timers.set(wait(2), at(4), Due::Itself);
        timers.clear(wait(3));
        assert_eq!(timers.next(), Some(at(3)));
        assert_eq!(timers.pop(at(2)), None);
        assert_eq!(timers.pop(at(9)).map(|it| it.0), Some(wait(1)));
        assert_eq!(timers.pop(at(9)).map(|it| it.0), Some(wait(2)));
        assert_eq!(timers.pop(at(9)), None);
        assert!(timers.order.is_empty() && timers.set.is_empty());
    }
}
