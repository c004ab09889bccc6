//! Which commands block at the server, and until when. Pure.

use std::{borrow::Cow, time::Duration};

use redis::{Arg, Cmd};

/// How much earlier than the context the server stops waiting, at most: it is to be first, so that
/// nothing has to be cancelled.
const RESERVE: Duration = Duration::from_millis(5);

/// Where a command has its timeout, and in what unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Timeout {
    FirstSeconds,
    LastSeconds,
    LastMilliseconds,
    /// Behind the option `BLOCK`, of those that begin here; without it the command does not block.
    BlockMilliseconds {
        options: usize,
    },
}

/// A command that blocks, to be sent.
#[derive(Debug)]
pub(super) struct Blocking {
    pub(super) command: Cmd,
    /// Whether it waits for less time than it was asked to.
    pub(super) shortened: bool,
    /// How long it waits, if not for ever.
    pub(super) waits: Option<Duration>,
}

/// <https://redis.io/docs/latest/commands/>, those with the flag `blocking`.
fn timeout_of(name: &str) -> Option<Timeout> {
    match name {
        "BLMPOP" | "BZMPOP" => Some(Timeout::FirstSeconds),
        "BLPOP" | "BRPOP" | "BRPOPLPUSH" | "BLMOVE" | "BZPOPMIN" | "BZPOPMAX" => {
            Some(Timeout::LastSeconds)
        }
        "WAIT" | "WAITAOF" => Some(Timeout::LastMilliseconds),
        "XREAD" => Some(Timeout::BlockMilliseconds { options: 1 }),
        // Behind `GROUP`, the group and the consumer.
        "XREADGROUP" => Some(Timeout::BlockMilliseconds { options: 4 }),
        _ => None,
    }
}

/// The name of a command, in capitals: all of it that is ever shown.
pub(super) fn name(command: &Cmd) -> String {
    String::from_utf8_lossy(arguments(command).first().unwrap_or(&&b""[..])).to_ascii_uppercase()
}

/// The command, to wait for no longer than what is left; `None` if it does not block.
pub(super) fn clamp(command: &Cmd, left: Option<Duration>) -> Option<Blocking> {
    let timeout = timeout_of(&name(command))?;
    let arguments = arguments(command);
    let position = match timeout {
        Timeout::FirstSeconds => 1,
        Timeout::LastSeconds | Timeout::LastMilliseconds => arguments.len().checked_sub(1)?,
        Timeout::BlockMilliseconds { options } => {
            let named = |word: &[u8], name: &[u8]| word.eq_ignore_ascii_case(name);
            // What follows is names of streams, and ids.
            let words = arguments.iter().take_while(|word| !named(word, b"STREAMS"));
            let mut words = words.enumerate().skip(options);
            1 + words.find(|(_, word)| named(word, b"BLOCK"))?.0
        }
    };
    // What is no number is for the server to refuse.
    let wanted = arguments.get(position).and_then(|text| timeout.read(text));
    let granted = left.map(|left| left - RESERVE.min(left / 10));
    let clamped =
        granted.zip(wanted).filter(|(granted, wanted)| wanted.is_none_or(|w| w > *granted));
    let mut out = Cmd::new();
    for (at, argument) in arguments.iter().enumerate() {
        let text = clamped.filter(|_| at == position).map(|(granted, _)| timeout.write(granted));
        out.arg(
            text.map_or(Cow::Borrowed(*argument), |text| Cow::Owned(text.into_bytes())).as_ref(),
        );
    }
    let waits = clamped.map(|(granted, _)| granted).or(wanted.flatten());
    Some(Blocking { command: out, shortened: clamped.is_some(), waits })
}

fn arguments(command: &Cmd) -> Vec<&[u8]> {
    let bytes = command.args_iter().map(|argument| match argument {
        Arg::Simple(bytes) => bytes,
        // A cursor, of which the first is zero.
        _ => b"0",
    });
    bytes.collect()
}

impl Timeout {
    /// How long a command is to wait; the inner `None` is for ever.
    fn read(self, text: &[u8]) -> Option<Option<Duration>> {
        let text = std::str::from_utf8(text).ok()?;
        let duration = match self {
            Self::FirstSeconds | Self::LastSeconds => {
                Duration::try_from_secs_f64(text.parse().ok()?).ok()?
            }
            Self::LastMilliseconds | Self::BlockMilliseconds { .. } => {
                Duration::from_millis(text.parse().ok()?)
            }
        };
        Some(Some(duration).filter(|duration| !duration.is_zero()))
    }

    /// Never zero, which would be for ever.
    fn write(self, limit: Duration) -> String {
        let milliseconds = limit.as_millis().max(1);
        match self {
            Self::FirstSeconds | Self::LastSeconds => {
                format!("{}.{:03}", milliseconds / 1000, milliseconds % 1000)
            }
            Self::LastMilliseconds | Self::BlockMilliseconds { .. } => milliseconds.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clamped(line: &str, left: Duration) -> Option<(String, bool)> {
        let mut command = Cmd::new();
        for word in line.split(' ') {
            command.arg(word);
        }
        let Blocking { command, shortened, .. } = clamp(&command, Some(left))?;
        let words = arguments(&command).into_iter().map(String::from_utf8_lossy);
        Some((words.collect::<Vec<_>>().join(" "), shortened))
    }

    #[test]
    fn each_has_its_timeout_where_redis_has_it() {
        let cases = [
            ("blpop a b 0", "blpop a b 0.995"),
            ("BRPOP a 2.5", "BRPOP a 0.995"),
            ("BLMOVE a b LEFT RIGHT 10", "BLMOVE a b LEFT RIGHT 0.995"),
            ("BLMPOP 10 2 a b LEFT", "BLMPOP 0.995 2 a b LEFT"),
            ("BZMPOP 0 1 a MIN", "BZMPOP 0.995 1 a MIN"),
            ("WAIT 2 60000", "WAIT 2 995"),
            ("XREAD COUNT 2 BLOCK 0 STREAMS s $", "XREAD COUNT 2 BLOCK 995 STREAMS s $"),
            (
                "XREADGROUP GROUP block c BLOCK 0 STREAMS s >",
                "XREADGROUP GROUP block c BLOCK 995 STREAMS s >",
            ),
            (
                "XREADGROUP GROUP g c block 9999 STREAMS s >",
                "XREADGROUP GROUP g c block 995 STREAMS s >",
            ),
        ];
        for (asked, sent) in cases {
            assert_eq!(
                clamped(asked, Duration::from_secs(1)),
                Some((sent.to_owned(), true)),
                "{asked}"
            );
        }
    }

    #[test]
    fn what_waits_for_less_is_left_alone() {
        for asked in ["BLPOP a 0.5", "WAIT 1 10", "XREAD BLOCK 5 STREAMS s 0", "BLPOP a soon"] {
            let same = Some((asked.to_owned(), false));
            assert_eq!(clamped(asked, Duration::from_secs(1)), same);
        }
    }

    #[test]
    fn what_does_not_block_is_none_of_its_business() {
        let streams = ["XREAD STREAMS block 0", "XREADGROUP GROUP block 20 STREAMS s >"];
        for asked in ["GET BLPOP", "LPOP a", "SET k BLOCK"].into_iter().chain(streams) {
            assert_eq!(clamped(asked, Duration::from_secs(1)), None, "{asked}");
        }
    }

    #[test]
    fn nothing_left_is_not_for_ever() {
        assert_eq!(clamped("BLPOP a 0", Duration::ZERO).unwrap().0, "BLPOP a 0.001");
        assert_eq!(clamped("WAIT 1 0", Duration::ZERO).unwrap().0, "WAIT 1 1");
    }
}
