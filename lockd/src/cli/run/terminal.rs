//! Hands the terminal to the command's process group, as a shell does, and takes it back.

use std::io::{self, IsTerminal as _, Stdin};

use nix::sys::signal::{SigSet, Signal};
use rustix::{
    process::{Pid, getpgrp},
    termios::{tcgetpgrp, tcsetpgrp},
};

/// The terminal that stdin is.
pub(super) struct Terminal {
    stdin: Stdin,
}

impl Terminal {
    pub(super) fn of_stdin() -> Option<Self> {
        let stdin = io::stdin();
        stdin.is_terminal().then_some(Self { stdin })
    }

    /// Whether the command is to have it from the start. In a pipeline the other commands are
    /// in our process group and need it as well: there the command gets it when it asks for it.
    pub(super) fn is_for_the_command(&self) -> bool {
        self.is_with(getpgrp()) && io::stdout().is_terminal()
    }

    /// Whether this group is in the foreground.
    pub(super) fn is_with(&self, group: Pid) -> bool {
        tcgetpgrp(&self.stdin).ok() == Some(group)
    }

    /// Makes a process group the one that reads the terminal and gets its signals.
    pub(super) fn give_to(&self, group: Pid) {
        // Who is not in the foreground is stopped by SIGTTOU for asking, unless it is blocked.
        let mut ttou = SigSet::empty();
        ttou.add(Signal::SIGTTOU);
        let blocked = ttou.thread_block();
        if let Err(error) = tcsetpgrp(&self.stdin, group) {
            tracing::debug!(%error, "the terminal can't be handed over");
        }
        // The mask is this thread's own, and did not have it before.
        if let Err(error) = blocked.and_then(|()| ttou.thread_unblock()) {
            tracing::debug!(%error, "the signal mask can't be set");
        }
    }

    /// Takes it back from a group, if that has it: in the background there is nothing to take.
    pub(super) fn take_back(&self, group: Pid) {
        if self.is_with(group) {
            self.give_to(getpgrp());
        }
    }
}
