//! The core: the one owner of the state, and one loop.
//!
//! ```text
//! connections ── frames, calls ──► turn: handle ► append ► apply ► sync ► answer ──► outboxes
//! ```
//!
//! A turn takes what is there, up to a bound; proposes operations; appends what idle lanes can take;
//! applies what the log delivers; makes it durable; and then lets answers out. Nothing waits: a lone
//! request leaves at once, and what arrives while the log is busy leaves together in the next record.
//! Answers come from effects, and from nothing else.
//!
//! `lanes` is the way to the log and back, `streams` and `calls` are those who ask, `notify` turns
//! effects into answers, `look` and `observe` answer questions, `leases` and `timers` are time.

mod admission;
pub(crate) mod answer;
mod apply;
pub(crate) mod ask;
mod calls;
mod checkpoints;
mod deadlocks;
mod digests;
pub(crate) mod error;
mod handle;
mod lanes;
mod leases;
mod look;
mod notify;
mod nudges;
pub(crate) mod observe;
pub(crate) mod outbox;
mod outcomes;
mod parts;
mod replies;
mod restored;
mod sessions;
pub(crate) mod status;
mod streams;
mod tickets;
mod timers;

use std::{future::poll_fn, pin::pin, time::Duration};

use lockd_proto::clock::Instant;
use tokio::sync::mpsc;

use self::{
    ask::Input,
    calls::Calls,
    checkpoints::Checkpoints,
    deadlocks::Deadlocks,
    digests::Digests,
    lanes::Lanes,
    leases::Leases,
    look::Looks,
    nudges::Nudges,
    observe::Observers,
    replies::Replies,
    restored::Hold,
    status::Status,
    streams::Streams,
    timers::{Due, Timer, Timers},
};
pub(crate) use handle::Handle;
pub use handle::{Answers, StreamHandle};
pub use parts::{Limits, Parts};

use crate::{
    log::{Event, Log, LogError},
    record::{Position, ReplicaId},
    state::{Effect, Restore, State},
    telemetry::metrics,
};

/// Inputs that wait for the core. Each connection has a share of its own beside this.
const INPUTS: usize = 256;

/// Operations that are asked for in one turn, roughly.
const OPERATIONS_A_TURN: usize = 1024;

/// What is done in one turn, before no further event of the log is taken: see `Core::work`.
const WORK_A_TURN: usize = 4 * OPERATIONS_A_TURN;

/// How long after a plain release that is the last of all it is made durable.
const SETTLE_AFTER: Duration = Duration::from_millis(10);

/// The interval of the checks that no event triggers.
const TICK: Duration = Duration::from_millis(500);

/// How many ticks go by before observers hear that nothing else has changed.
const TICKS_A_BEAT: u64 = 3;

/// The owner of the state.
#[derive(Debug)]
pub struct Core<L> {
    log: L,
    state: State,
    /// This replica's name in the log; `None` until the log has been read.
    me: Option<ReplicaId>,
    restore: Restore,
    hold: Hold,
    parts: Parts,
    inputs: mpsc::Receiver<Input>,
    nudges: Nudges,
    lanes: Lanes,
    streams: Streams,
    calls: Calls,
    looks: Looks,
    observers: Observers,
    leases: Leases,
    timers: Timers,
    deadlocks: Deadlocks,
    digests: Digests,
    checkpoints: Checkpoints,
    /// Everything up to here survives a power failure.
    durable: Position,
    /// The effects of one operation; kept for its room.
    effects: Vec<Effect>,
    /// Answers of calls and questions that wait until what they rest on is durable.
    replies: Replies,
    /// Whether an answer waits for a sync.
    must_sync: bool,
    /// Whether what was appended lately is to be made durable, though no answer waits for it.
    must_settle: bool,
    /// When a record was last appended.
    appended: Instant,
    ticks: u64,
    /// What was done in this turn: messages, timers, operations, and what followed from each of those.
    work: usize,
    draining: bool,
    /// Whether a client has known more of the log than there is.
    is_restored: bool,
    status: Status,
    origin: Instant,
    now: Instant,
}

impl<L: Log> Core<L> {
    /// A core on a log, and the way to it.
    #[must_use]
    pub fn new(log: L, parts: Parts) -> (Self, Handle) {
        let (sender, inputs) = mpsc::channel(INPUTS);
        let nudges = Nudges::default();
        let status = Status::new(parts.clock.clone());
        let now = parts.clock.now();
        let handle = Handle::new(sender, nudges.clone(), status.clone(), parts.name.clone());
        let core = Self {
            lanes: Lanes::new(log.profile().lanes),
            log,
            state: State::default(),
            me: None,
            restore: Restore::default(),
            hold: Hold::default(),
            parts,
            inputs,
            nudges,
            streams: Streams::default(),
            calls: Calls::default(),
            looks: Looks::default(),
            observers: Observers::default(),
            leases: Leases::default(),
            timers: Timers::default(),
            deadlocks: Deadlocks::default(),
            digests: Digests::default(),
            checkpoints: Checkpoints::default(),
            durable: Position::default(),
            effects: Vec::new(),
            replies: Replies::default(),
            must_sync: false,
            must_settle: false,
            appended: now,
            ticks: 0,
            work: 0,
            draining: false,
            is_restored: false,
            status,
            // Zero is no moment.
            origin: now - Duration::from_nanos(1),
            now,
        };
        (core, handle)
    }

    /// Serves until the replica ends.
    ///
    /// # Errors
    /// The log has failed for good: nothing more is answered, and the process must end.
    pub async fn run(mut self) -> Result<(), LogError> {
        let (end, drain) = (self.parts.end.clone(), self.parts.drain.clone());
        let (nudges, clock) = (self.nudges.clone(), self.parts.clock.clone());
        self.timers.set(Timer::Tick, self.now + TICK, Due::Itself);
        let mut inputs = Vec::with_capacity(INPUTS);
        // A log of one's own is read at once; another one may not be there for long.
        while self.me.is_none() && !self.log.profile().is_shared {
            let event = poll_fn(|cx| self.log.poll_event(cx)).await;
            self.event(event)?;
        }
        // Made once, and set anew only where the time is another one: what a turn costs is paid for each
        // request.
        let (mut ended, mut drained) = (pin!(end.cancelled()), pin!(drain.cancelled()));
        let mut armed = None;
        let mut timer = pin!(clock.sleep_until(self.now));
        loop {
            let wake = self.timers.next().unwrap_or(self.now + TICK);
            if armed != Some(wake) {
                armed = Some(wake);
                timer.set(clock.sleep_until(wake));
            }
            // Every arm is cancel safe: a channel's recv, the log's events, timers, tokens.
            let event = tokio::select! {
                biased;
                () = &mut ended => return Ok(()),
                event = poll_fn(|cx| self.log.poll_event(cx)) => Some(event),
                input = self.inputs.recv() => {
                    inputs.extend(input);
                    None
                }
                () = nudges.arrive() => None,
                () = &mut drained, if !self.draining => None,
                () = &mut timer => {
                    armed = None;
                    None
                }
                () = std::future::ready(()), if self.has_work() => None,
            };
            self.now = clock.now();
            self.status.begin_turn(self.now);
            self.turn(event, &mut inputs)?;
            self.publish();
            // Connections run between turns.
            tokio::task::yield_now().await;
        }
    }

    /// One turn: inputs first, so that a keepalive that waits counts before its session's silence does
    /// (RULES L11).
    fn turn(&mut self, event: Option<Event>, inputs: &mut Vec<Input>) -> Result<(), LogError> {
        self.take_inputs(inputs);
        if self.parts.drain.is_cancelled() && !self.draining {
            self.begin_drain();
        }
        self.run_timers();
        self.search_deadlocks();
        self.write_checkpoint()?;
        if let Some(event) = event {
            self.event(event)?;
        }
        self.exchange()?;
        self.make_durable()?;
        self.release_answers();
        Ok(())
    }

    fn take_inputs(&mut self, inputs: &mut Vec<Input>) {
        self.work = 0;
        for input in inputs.drain(..) {
            self.work += self.input(input);
        }
        while self.work < OPERATIONS_A_TURN
            && let Ok(input) = self.inputs.try_recv()
        {
            self.work += self.input(input);
        }
        for nudge in self.nudges.take(OPERATIONS_A_TURN) {
            self.work += 1;
            self.nudge(nudge);
        }
    }

    /// Handles an input, and says how many operations it may have asked for.
    fn input(&mut self, input: Input) -> usize {
        match input {
            Input::Begin(begin) => {
                let asks = begin.asks.len();
                self.begin_stream(*begin);
                1 + asks
            }
            Input::Frame { stream, asks, share } => {
                let count = asks.len();
                self.frame(stream, asks);
                drop(share);
                count
            }
            Input::Call(call) => {
                self.call(*call);
                1
            }
            Input::Look(look) => {
                self.look(*look);
                1
            }
        }
    }

    fn run_timers(&mut self) {
        // What is set in this turn is not due in it.
        for _ in 0..OPERATIONS_A_TURN {
            let Some((timer, due)) = self.timers.pop(self.now) else { return };
            self.work += 1;
            self.timer(timer, due);
        }
    }

    fn timer(&mut self, timer: Timer, due: Due) {
        match (timer, due) {
            (Timer::Lease(session), _) => self.look_at_lease(session),
            (Timer::Wait(token), Due::EndWait { lock, claim, why }) => {
                self.end_wait(lock, token, (claim, why));
            }
            (Timer::Delay(token), Due::Lapse { lock, since }) => self.lapse(lock, token, since),
            (Timer::Deadlock, _) => self.deadlocks.look(),
            (Timer::Settle, _) => self.settle(),
            (Timer::Tick, _) => self.tick(),
            (Timer::Wait(_) | Timer::Delay(_), _) => {}
        }
    }

    /// Runs the checks that no event triggers.
    fn tick(&mut self) {
        self.timers.set(Timer::Tick, self.now + TICK, Due::Itself);
        self.must_settle = true;
        self.look_at_hold();
        self.cut_off_slow_streams();
        self.give_up_old_tickets();
        if let Some(error) = self.not_fresh() {
            self.observers.end_all(&error);
            self.fail_looks(&error);
        } else {
            self.ticks += 1;
            if self.ticks.is_multiple_of(TICKS_A_BEAT) {
                self.observers.beat();
            }
        }
    }

    /// Whether there is more to do than one turn does.
    fn has_work(&self) -> bool {
        let was_cut_short = self.work >= WORK_A_TURN;
        was_cut_short || self.deadlocks.has_work() || (self.is_writing() && self.log.takes_chunks())
    }

    /// Appends what idle lanes can take, and applies what comes back, until nothing more does at once.
    fn exchange(&mut self) -> Result<(), LogError> {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        while self.work < WORK_A_TURN {
            self.append()?;
            match self.log.poll_event(&mut cx) {
                // The log is read once more a record a turn.
                std::task::Poll::Ready(event @ Event::Again(_)) => return self.event(event),
                std::task::Poll::Ready(event) => self.event(event)?,
                std::task::Poll::Pending => return Ok(()),
            }
        }
        Ok(())
    }

    /// Makes durable what was applied, if an answer rests on it.
    fn make_durable(&mut self) -> Result<(), LogError> {
        let observers = self.observers.have_news();
        if self.must_sync || !self.replies.is_empty() || observers {
            self.must_sync = false;
            self.commit(L::sync)?;
            if self.me.is_some() {
                self.trim()?;
            }
        }
        if std::mem::take(&mut self.must_settle) {
            self.commit(L::settle)?;
        }
        if observers {
            self.observers.feed(&self.state);
        }
        Ok(())
    }

    /// Makes what was appended durable, and measures how long that takes.
    fn commit(
        &mut self,
        commit: impl FnOnce(&mut L) -> Result<Position, LogError>,
    ) -> Result<(), LogError> {
        let operations = self.lanes.take_uncommitted();
        let before = (operations > 0).then(|| self.parts.clock.now());
        let durable = commit(&mut self.log)?;
        self.durable = self.durable.max(durable);
        // A log that others write to has made it durable before it was delivered.
        if let Some(before) = before.filter(|_| !self.log.profile().is_shared) {
            let took = self.parts.clock.now().saturating_duration_since(before);
            metrics::committed(operations, took);
        }
        Ok(())
    }

    fn release_answers(&mut self) {
        if self.draining {
            self.end_leaving_streams();
        }
        self.calls.measure_handoffs(&self.parts.clock);
        self.replies.release();
        self.streams.flush(self.durable, self.now);
    }
}

#[cfg(test)]
mod tests;
