//! The signals that lockd passes on.

use std::{io, pin::Pin};

use futures::{Stream, StreamExt, stream::SelectAll};
use rustix::process::{Signal, getpid, kill_process};
use tokio::signal::unix::{SignalKind, signal};

/// Those that end a wait for the lock.
const TERMINATING: [Signal; 4] = [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM];

/// Those that are passed on to the command, besides. SIGCHLD and SIGPIPE are ours, SIGTTIN and
/// SIGTTOU are about our own use of the terminal, and SIGSEGV and its like belong to the
/// process that made the mistake.
const OTHERS: [Signal; 14] = [
    Signal::USR1,
    Signal::USR2,
    Signal::ALARM,
    Signal::WINCH,
    Signal::ABORT,
    Signal::URG,
    Signal::IO,
    Signal::POWER,
    Signal::XCPU,
    Signal::XFSZ,
    Signal::VTALARM,
    Signal::PROF,
    Signal::SYS,
    Signal::STKFLT,
];

/// What has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arrived {
    /// A signal to pass on.
    PassOn(Signal),
    /// SIGTSTP: command and lockd are to stop together.
    Suspend,
    /// SIGCONT: they are to go on, if the lock is still held.
    Continue,
    /// The command has stopped, or ended.
    Child,
}

/// Every signal that can be caught and means something to a command.
pub(super) struct Signals {
    streams: SelectAll<Pin<Box<dyn Stream<Item = Arrived> + Send>>>,
}

impl Signals {
    pub(super) fn listen() -> io::Result<Self> {
        let mut streams = SelectAll::new();
        let passed = TERMINATING.into_iter().chain(OTHERS).map(|s| (s, Arrived::PassOn(s)));
        let stop = [(Signal::TSTP, Arrived::Suspend), (Signal::CONT, Arrived::Continue)];
        // What is ignored, as under nohup, stays ignored: by lockd, and so by the command.
        let ignored = ignored();
        for (signal, arrived) in passed.chain(stop) {
            if ignored & (1 << (signal.as_raw() - 1)) == 0 {
                streams.push(stream(signal.as_raw(), arrived)?);
            }
        }
        streams.push(stream(Signal::CHILD.as_raw(), Arrived::Child)?);
        Ok(Self { streams })
    }

    /// The next one. Cancel safe.
    pub(super) async fn next(&mut self) -> Arrived {
        match self.streams.next().await {
            Some(arrived) => arrived,
            None => std::future::pending().await,
        }
    }

    /// The number of the next one that asks to end, for while there is no command yet. Cancel
    /// safe.
    pub(super) async fn terminating(&mut self) -> i32 {
        loop {
            match self.next().await {
                Arrived::PassOn(signal) if TERMINATING.contains(&signal) => return signal.as_raw(),
                Arrived::Suspend => suspend(),
                Arrived::PassOn(_) | Arrived::Continue | Arrived::Child => {}
            }
        }
    }
}

/// Stops this process, as SIGTSTP would if it were not caught. It may go on for a moment.
pub(super) fn suspend() {
    // A process can always stop itself.
    kill_process(getpid(), Signal::STOP).unwrap_or_default();
}

/// The signals that this process was started to ignore, as a mask; none where the system does
/// not tell.
fn ignored() -> u64 {
    ignored_in(&std::fs::read_to_string("/proc/self/status").unwrap_or_default())
}

fn ignored_in(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default()
}

fn stream(
    number: i32,
    arrived: Arrived,
) -> io::Result<Pin<Box<dyn Stream<Item = Arrived> + Send>>> {
    let signals = signal(SignalKind::from_raw(number))?;
    Ok(Box::pin(futures::stream::unfold(signals, move |mut signals| async move {
        signals.recv().await?;
        Some((arrived, signals))
    })))
}

/// Reads a signal's name, with or without SIG, or its number.
pub(super) fn parse(text: &str) -> Result<Signal, String> {
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let named = match name {
        "HUP" | "1" => Signal::HUP,
        "INT" | "2" => Signal::INT,
        "QUIT" | "3" => Signal::QUIT,
        "KILL" | "9" => Signal::KILL,
        "USR1" | "10" => Signal::USR1,
        "USR2" | "12" => Signal::USR2,
        "ALRM" | "14" => Signal::ALARM,
        "TERM" | "15" => Signal::TERM,
        _ => return Err("expected HUP, INT, QUIT, KILL, USR1, USR2, ALRM or TERM".to_owned()),
    };
    Ok(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_of_signals_are_read() {
        for text in ["TERM", "term", "SIGTERM", "15"] {
            assert_eq!(parse(text), Ok(Signal::TERM), "{text}");
        }
        assert!(parse("WHAT").is_err());
    }

    #[test]
    fn ignored_signals_are_found() {
        let hup = ignored_in("Name:\tlockd\nSigIgn:\t0000000000000001\nSigCgt:\tff\n");
        assert_eq!(hup, 1 << (Signal::HUP.as_raw() - 1));
        assert_eq!(ignored_in(""), 0);
    }
}
