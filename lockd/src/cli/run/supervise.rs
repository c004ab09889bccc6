//! Lets the command run for as long as the lock is held, and not a moment longer.
//!
//! ```text
//! running ──── safe-until − grace, or lost ───► stopping ──── safe-until ───► killed
//! ```
//!
//! All moments are on the client's own clock, so that a network that hangs delays nothing.

use std::time::Duration;

use lockd_client::{Guard, LockState};
use lockd_proto::clock::{Clock, Instant};
use rustix::process::Signal;
use tokio::sync::watch;

use super::{
    child::{Child, exit_of},
    signals::{Arrived, Signals},
};
use crate::cli::{
    exit::{CommandError, Exit},
    output,
};

/// How often to look whether what a command left behind is gone: no signal reports it, since
/// these are not our children.
const LOOK: Duration = Duration::from_millis(20);

/// How a command is stopped.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grace {
    /// How long it has to end after the signal.
    pub(super) length: Duration,
    /// The signal that asks it to stop.
    pub(super) signal: Signal,
}

/// How far the command has been stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CommandPhase {
    Running,
    /// Asked to stop at this moment.
    Stopping(Instant),
    Killed,
}

/// The lock at one moment.
#[derive(Debug, Clone, Copy)]
struct Lease {
    safe_until: Instant,
    lost: bool,
}

/// What to do now, and when to look again.
#[derive(Debug, PartialEq, Eq)]
enum Decision {
    Wait { until: Option<Instant> },
    Stop,
    Kill,
}

fn decide(phase: CommandPhase, lease: Lease, now: Instant, grace: Duration) -> Decision {
    match phase {
        // Only after a suspension: it must not go on, not even to stop.
        CommandPhase::Running if now >= lease.safe_until => Decision::Kill,
        CommandPhase::Running if lease.lost || now >= lease.safe_until - grace => Decision::Stop,
        CommandPhase::Running => Decision::Wait { until: Some(lease.safe_until - grace) },
        CommandPhase::Stopping(since) => {
            let kill_at = lease.safe_until.min(since + grace);
            if now >= kill_at { Decision::Kill } else { Decision::Wait { until: Some(kill_at) } }
        }
        CommandPhase::Killed => Decision::Wait { until: None },
    }
}

/// Waits for the command, and stops it when the lock is lost. Gives the exit code.
pub(super) async fn supervise(
    mut child: Child,
    guard: &Guard,
    clock: &Clock,
    signals: &mut Signals,
    grace: Grace,
) -> Result<Exit, CommandError> {
    let mut state = guard.state();
    let mut phase = CommandPhase::Running;
    let ended = loop {
        let lost = matches!(*state.borrow_and_update(), LockState::Lost(_));
        let lease = Lease { safe_until: guard.safe_until(), lost };
        let until = match decide(phase, lease, clock.now(), grace.length) {
            Decision::Wait { until } => until,
            Decision::Stop => {
                tell_lost(&state);
                child.signal(grace.signal);
                // A command that was stopped by its terminal has to run to end.
                child.signal(Signal::CONT);
                phase = CommandPhase::Stopping(clock.now());
                continue;
            }
            Decision::Kill => {
                match phase {
                    CommandPhase::Running => tell_lost(&state),
                    CommandPhase::Stopping(_) | CommandPhase::Killed => {
                        output::message("the command has not stopped in time: killing it");
                    }
                }
                child.signal(Signal::KILL);
                phase = CommandPhase::Killed;
                continue;
            }
        };
        // Every arm is cancel safe.
        tokio::select! {
            ended = child.ended() => break ended,
            arrived = signals.next() => match arrived {
                Arrived::PassOn(signal) => child.signal(signal),
                Arrived::Suspend => child.tell_to_stop(),
                Arrived::Continue if may_go_on(phase, guard) => child.go_on(),
                // The next turn stops it.
                Arrived::Continue => {}
                Arrived::Child => child.follow_stop(),
            },
            () = changed(&mut state) => {}
            () = sleep_until(clock, until) => {}
        }
    };
    if phase == CommandPhase::Running && guard.check().is_ok() {
        return ended.map(exit_of).map_err(CommandError::internal);
    }
    if phase == CommandPhase::Running {
        tell_lost(&state);
        child.signal(grace.signal);
        phase = CommandPhase::Stopping(clock.now());
    }
    clear(&child, phase, guard, clock, grace).await;
    Ok(Exit::Lost)
}

/// A command that was stopped may go on if its lock is still held by the clock, or to end.
fn may_go_on(phase: CommandPhase, guard: &Guard) -> bool {
    match phase {
        CommandPhase::Running => guard.check().is_ok(),
        CommandPhase::Stopping(_) | CommandPhase::Killed => true,
    }
}

/// The command has ended without the lock. What it left behind has the rest of the grace, and
/// no more.
async fn clear(child: &Child, phase: CommandPhase, guard: &Guard, clock: &Clock, grace: Grace) {
    while child.is_alive() {
        let lease = Lease { safe_until: guard.safe_until(), lost: true };
        match decide(phase, lease, clock.now(), grace.length) {
            Decision::Wait { until: Some(until) } => {
                clock.sleep_until(until.min(clock.now() + LOOK)).await;
            }
            Decision::Wait { until: None } | Decision::Stop | Decision::Kill => break,
        }
    }
    child.signal(Signal::KILL);
}

fn tell_lost(state: &watch::Receiver<LockState>) {
    match &*state.borrow() {
        LockState::Lost(reason) => {
            output::message(&format!("the lock is lost ({reason}): stopping the command"));
        }
        LockState::Held | LockState::Uncertain => {
            output::message(
                "the lock could not be renewed: stopping the command before it is lost",
            );
        }
    }
}

async fn changed(state: &mut watch::Receiver<LockState>) {
    if state.changed().await.is_err() {
        std::future::pending().await
    }
}

async fn sleep_until(clock: &Clock, until: Option<Instant>) {
    match until {
        Some(until) => clock.sleep_until(until).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(2);

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_renewed_lease_lets_the_command_run() {
        let now = Clock::system().now();
        let lease = Lease { safe_until: now + seconds(10), lost: false };
        let until = Some(now + seconds(8));
        assert_eq!(decide(CommandPhase::Running, lease, now, GRACE), Decision::Wait { until });
    }

    #[test]
    fn it_is_told_to_stop_while_there_is_grace_left() {
        let now = Clock::system().now();
        let lease = Lease { safe_until: now + GRACE, lost: false };
        assert_eq!(decide(CommandPhase::Running, lease, now, GRACE), Decision::Stop);
    }

    #[test]
    fn after_a_suspension_beyond_the_lease_it_is_killed_without_a_word() {
        let now = Clock::system().now();
        let lease = Lease { safe_until: now, lost: false };
        assert_eq!(decide(CommandPhase::Running, lease, now, GRACE), Decision::Kill);
    }

    #[test]
    fn a_loss_stops_it_at_once_and_kills_it_after_the_grace() {
        let now = Clock::system().now();
        let lease = Lease { safe_until: now + seconds(60), lost: true };
        assert_eq!(decide(CommandPhase::Running, lease, now, GRACE), Decision::Stop);
        let stopping = CommandPhase::Stopping(now);
        let until = Some(now + GRACE);
        assert_eq!(decide(stopping, lease, now, GRACE), Decision::Wait { until });
        assert_eq!(decide(stopping, lease, now + GRACE, GRACE), Decision::Kill);
    }

    #[test]
    fn nothing_runs_past_safe_until() {
        let now = Clock::system().now();
        let lease = Lease { safe_until: now + seconds(1), lost: false };
        let stopping = CommandPhase::Stopping(now);
        assert_eq!(decide(stopping, lease, now + seconds(1), GRACE), Decision::Kill);
        let late = now + seconds(5);
        assert_eq!(
            decide(CommandPhase::Killed, lease, late, GRACE),
            Decision::Wait { until: None }
        );
    }
}
