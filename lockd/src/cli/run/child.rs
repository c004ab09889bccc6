//! The command: a child in a process group of its own, so that none of its offspring is
//! missed by a signal.

use std::{
    ffi::OsString,
    io,
    os::unix::process::ExitStatusExt as _,
    process::{ExitStatus, Stdio},
};

use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, getpgrp, kill_process_group, test_kill_process_group,
    waitid,
};
use tokio::{
    io::AsyncReadExt as _,
    process::{ChildStdout, Command},
};

use super::{signals::suspend, terminal::Terminal};
use crate::cli::{
    exit::{CommandError, Exit},
    output,
};

pub(super) struct Child {
    process: tokio::process::Child,
    /// The child's pid, which is its group's too.
    group: Pid,
    terminal: Option<Terminal>,
    /// Whether the command has had the terminal: it gets it again when it goes on.
    had_terminal: bool,
    /// Whether lockd has passed on a SIGTSTP that asks it to stop.
    told_to_stop: bool,
}

/// Where the command's output goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Output {
    /// To lockd's own stdout, as if it had been started directly.
    Inherited,
    /// There too, and it is kept.
    Kept,
}

/// The longest output that is kept: the longest result of a once.
const MAX_KEPT: usize = 64 * 1024;

impl Child {
    /// Starts the command. It has lockd's own stdin, stdout and stderr.
    pub(super) fn spawn(
        argv: &[OsString],
        environment: [(&str, String); 4],
        output: Output,
    ) -> Result<Self, CommandError> {
        let Some((program, arguments)) = argv.split_first() else {
            return Err(CommandError::new(Exit::Usage, "no command"));
        };
        let terminal = Terminal::of_stdin();
        let mut command = Command::new(program);
        command.args(arguments).envs(environment).process_group(0);
        if output == Output::Kept {
            command.stdout(Stdio::piped());
        }
        let process = command.spawn().map_err(|error| not_started(program, &error))?;
        let group = process.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        let Some(group) = group else {
            return Err(CommandError::new(Exit::NotStarted, "the command has no process id"));
        };
        let mut child = Self { process, group, terminal, had_terminal: false, told_to_stop: false };
        if child.terminal.as_ref().is_some_and(Terminal::is_for_the_command) {
            child.give_terminal();
        }
        Ok(child)
    }

    /// Passes on what the command prints, if it is to be kept, and gives it at its end. To be
    /// polled while the command runs: a full pipe would stop it.
    pub(super) fn printed(
        &mut self,
    ) -> impl Future<Output = Result<Vec<u8>, CommandError>> + use<> {
        let stdout = self.process.stdout.take();
        async move {
            match stdout {
                Some(stdout) => copy(stdout).await,
                None => Ok(vec![]),
            }
        }
    }

    /// Waits for the command to end. Cancel safe.
    pub(super) async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.process.wait().await
    }

    /// Sends a signal to the command and all its offspring.
    pub(super) fn signal(&self, signal: Signal) {
        if let Err(error) = kill_process_group(self.group, signal) {
            // A group that is gone needs no signal.
            tracing::debug!(%error, "the command could not be signalled");
        }
    }

    /// Whether anything of the group is left.
    pub(super) fn is_alive(&self) -> bool {
        test_kill_process_group(self.group).is_ok()
    }

    /// Finds out whether the command has stopped. If it wants the terminal it gets it, if that
    /// is ours; if its user has stopped it, lockd stops as well, so that the shell notices.
    pub(super) fn follow_stop(&mut self) {
        let look = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG;
        let stopped = waitid(WaitId::Pid(self.group), look).ok().flatten();
        let Some(signal) = stopped.and_then(|status| status.stopping_signal()) else { return };
        let is_with = |group| self.terminal.as_ref().is_some_and(|it| it.is_with(group));
        let (ours, its) = (is_with(getpgrp()), is_with(self.group));
        let asks = [Signal::TTIN, Signal::TTOU].iter().any(|asking| asking.as_raw() == signal);
        if asks && (ours || its) {
            self.give_terminal();
            self.signal(Signal::CONT);
        } else if (asks && self.terminal.is_some()) || its || self.told_to_stop {
            self.suspend();
        }
    }

    /// SIGTSTP: asks the command to stop. Should it, lockd does as well.
    pub(super) fn tell_to_stop(&mut self) {
        self.told_to_stop = true;
        self.signal(Signal::TSTP);
    }

    /// Stops lockd, and all of the group before it: the lease is not watched meanwhile.
    fn suspend(&self) {
        self.signal(Signal::STOP);
        if let Some(terminal) = &self.terminal {
            terminal.take_back(self.group);
        }
        suspend();
    }

    /// SIGCONT: goes on with the command, in the foreground if the shell has put us there.
    pub(super) fn go_on(&mut self) {
        self.told_to_stop = false;
        let ours = self.terminal.as_ref().is_some_and(|terminal| terminal.is_with(getpgrp()));
        if ours && self.had_terminal {
            self.give_terminal();
        }
        self.signal(Signal::CONT);
    }

    fn give_terminal(&mut self) {
        if let Some(terminal) = &self.terminal {
            terminal.give_to(self.group);
            self.had_terminal = true;
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if let Some(terminal) = &self.terminal {
            terminal.take_back(self.group);
        }
    }
}

async fn copy(mut stdout: ChildStdout) -> Result<Vec<u8>, CommandError> {
    let (mut kept, mut chunk) = (Vec::new(), vec![0; 8192]);
    loop {
        let read = stdout.read(&mut chunk).await.map_err(CommandError::internal)?;
        let Some(read) = chunk.get(..read).filter(|read| !read.is_empty()) else { break };
        output::write(read)?;
        // What is too long is passed on all the same, but not kept.
        if kept.len() <= MAX_KEPT {
            kept.extend_from_slice(read);
        }
    }
    if kept.len() > MAX_KEPT {
        let text = "the command has printed more than 65536 bytes: its result was not stored";
        return Err(CommandError::new(Exit::Internal, text));
    }
    Ok(kept)
}

fn not_started(program: &OsString, error: &io::Error) -> CommandError {
    let exit = match error.kind() {
        io::ErrorKind::NotFound => Exit::NotFound,
        io::ErrorKind::PermissionDenied => Exit::NotExecutable,
        _ if error.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error()) => {
            Exit::NotExecutable
        }
        _ => Exit::NotStarted,
    };
    CommandError::new(exit, format!("{}: {error}", program.display()))
}

/// The exit code that stands for how the command ended.
pub(super) fn exit_of(status: ExitStatus) -> Exit {
    match (status.code(), status.signal()) {
        (Some(code), _) => Exit::Code(u8::try_from(code).unwrap_or(u8::MAX)),
        (None, Some(signal)) => Exit::Signal(signal),
        (None, None) => Exit::Internal,
    }
}
