//! Exit codes: one table, for every command.

use std::{fmt, process::ExitCode};

use lockd_client::{Error, ErrorKind};

use super::output;

/// The table, as `lockd lock --help` shows it.
pub(super) const TABLE: &str = "\
Exit codes:
  the command's own, or 128 + its signal
  64   wrong usage
  69   the server is unavailable
  70   an internal error
  75   the lock is busy, the wait expired (-E sets another code), or it was part of a deadlock
  77   permission denied
  78   wrong configuration
  79   the lock was lost while the command ran, whatever that returned; the barrier is broken
  125  lockd itself failed to run the command
  126  the command can't be executed
  127  the command was not found
  130, 143  interrupted (SIGINT, SIGTERM) while waiting for the lock";

/// How lockd ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All went well.
    Success,
    /// Wrong flags or arguments.
    Usage,
    /// No server, or none that could do it.
    Unavailable,
    /// A defect.
    Internal,
    /// The lock is held, and the time to wait is over.
    Busy,
    /// Not allowed.
    Permission,
    /// A wrong configuration.
    Config,
    /// The lock was lost while the command ran.
    Lost,
    /// The command could not be started.
    NotStarted,
    /// The command can't be executed.
    NotExecutable,
    /// The command was not found.
    NotFound,
    /// Ended by this signal.
    Signal(i32),
    /// With the command's own code, or one that the user chose.
    Code(u8),
}

impl Exit {
    /// The process' exit code.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Usage => 64,
            Self::Unavailable => 69,
            Self::Internal => 70,
            Self::Busy => 75,
            Self::Permission => 77,
            Self::Config => 78,
            Self::Lost => 79,
            Self::NotStarted => 125,
            Self::NotExecutable => 126,
            Self::NotFound => 127,
            Self::Signal(signal) => u8::try_from(128 + signal).unwrap_or(255),
            Self::Code(code) => code,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why a command failed: how to exit, and what to say.
#[derive(Debug)]
pub(super) struct CommandError {
    pub(super) exit: Exit,
    text: String,
}

impl CommandError {
    pub(super) fn new(exit: Exit, text: impl Into<String>) -> Self {
        Self { exit, text: text.into() }
    }

    /// Says why, if there is anything to say.
    pub(super) fn tell(&self) {
        if !self.text.is_empty() {
            output::message(&self.text);
        }
    }

    /// One that needs no words.
    pub(super) fn quiet(exit: Exit) -> Self {
        Self::new(exit, "")
    }

    pub(super) fn internal(error: impl fmt::Display) -> Self {
        Self::new(Exit::Internal, error.to_string())
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<Error> for CommandError {
    fn from(error: Error) -> Self {
        Self::new(exit_for(error.kind()), error.to_string())
    }
}

fn exit_for(kind: ErrorKind) -> Exit {
    match kind {
        ErrorKind::InvalidArgument => Exit::Usage,
        ErrorKind::Busy
        | ErrorKind::WaitExpired
        | ErrorKind::DeadlineExceeded
        | ErrorKind::Deadlock => Exit::Busy,
        ErrorKind::Unavailable | ErrorKind::Unknown | ErrorKind::ResourceExhausted => {
            Exit::Unavailable
        }
        ErrorKind::PermissionDenied => Exit::Permission,
        ErrorKind::Configuration => Exit::Config,
        // Another party is gone, and with it what this one came for.
        ErrorKind::Broken => Exit::Lost,
        // The lease ran out while the lock was waited for: no command has run.
        ErrorKind::Lost => Exit::Unavailable,
        ErrorKind::NotFound
        | ErrorKind::Conflict
        | ErrorKind::Cancelled
        | ErrorKind::Fenced
        | ErrorKind::Failed => Exit::Code(1),
        _ => Exit::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_what_is_documented() {
        let rows = [
            (Exit::Usage, 64),
            (Exit::Unavailable, 69),
            (Exit::Internal, 70),
            (Exit::Busy, 75),
            (Exit::Permission, 77),
            (Exit::Config, 78),
            (Exit::Lost, 79),
            (Exit::NotStarted, 125),
            (Exit::NotExecutable, 126),
            (Exit::NotFound, 127),
            (Exit::Signal(2), 130),
            (Exit::Signal(15), 143),
        ];
        for (exit, code) in rows {
            assert_eq!(exit.code(), code);
            assert!(TABLE.contains(&code.to_string()), "{code} is documented");
        }
        assert_eq!(Exit::Code(3).code(), 3);
        assert_eq!(Exit::Success.code(), 0);
    }

    #[test]
    fn each_kind_of_error_has_its_row() {
        for (kind, code) in [
            (ErrorKind::InvalidArgument, 64),
            (ErrorKind::Unavailable, 69),
            (ErrorKind::Busy, 75),
            (ErrorKind::WaitExpired, 75),
            (ErrorKind::Deadlock, 75),
            (ErrorKind::Broken, 79),
            (ErrorKind::PermissionDenied, 77),
            (ErrorKind::Configuration, 78),
            // 79 is for a lock that a command ran under.
            (ErrorKind::Lost, 69),
        ] {
            assert_eq!(exit_for(kind).code(), code, "{kind:?}");
        }
    }
}
