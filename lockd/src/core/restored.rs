//! After a restore from a backup was accepted: clients of the history that was lost may still rely on
//! what they hold, so this replica grants nothing until the longest of their leases is over.
//!
//! Every replica that reads the restore counts by itself, anew after each start, until a checkpoint lies
//! behind it; none is begun before.

use std::time::Duration;

use lockd_proto::{DEFAULT_TTL, clock::Instant, safety_margin};

use super::{Core, sessions::millis};
use crate::{log::Log, record::Position};

/// How long nothing is granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Hold {
    /// No restore is in what was read.
    #[default]
    None,
    /// One is, and this long has to go by from when all was read.
    Found(Duration),
    /// Until then.
    Until(Instant),
    /// It is over. A checkpoint is due, so that the next start does not count again.
    Over,
}

impl<L: Log> Core<L> {
    /// A restore was accepted at this place in the log.
    pub(super) fn restored(&mut self, at: Position) {
        let ttls = self.state.sessions().map(|session| millis(session.ttl_ms.into()));
        // A session may have been opened after the backup was made.
        let longest = ttls.max().unwrap_or_default().max(DEFAULT_TTL);
        let before = match self.hold {
            Hold::Found(before) => before,
            Hold::None | Hold::Until(_) | Hold::Over => Duration::ZERO,
        };
        self.hold = Hold::Found(before.max(longest + safety_margin(longest)));
        tracing::warn!(%at, sessions = self.state.counts().sessions, "a restored log was accepted: all sessions end");
        self.state.restored(at);
    }

    /// The log has been read: the time counts from now on.
    pub(super) fn begin_hold(&mut self) {
        if let Hold::Found(time) = self.hold {
            // Another replica's answers may have promised as much more.
            let time = time + self.log.promise_window();
            tracing::warn!(?time, "nothing is granted until leases of before the restore are over");
            self.hold = Hold::Until(self.now + time);
        }
    }

    /// For how long this replica still grants nothing.
    pub(super) fn held_back(&self) -> Option<Duration> {
        match self.hold {
            Hold::None | Hold::Over => None,
            Hold::Found(time) => Some(time),
            Hold::Until(end) => {
                let left = end.saturating_duration_since(self.now);
                (!left.is_zero()).then_some(left)
            }
        }
    }

    pub(super) fn look_at_hold(&mut self) {
        if matches!(self.hold, Hold::Until(_)) && self.held_back().is_none() {
            self.hold = Hold::Over;
        }
    }
}
