//! The keys under the prefix.
//!
//! ```text
//! c/<floor>/<which>/<n>    a chunk of a checkpoint
//! floor                    the newest floor
//! h                        put with every record: its revision is the newest record's
//! h/history                which history this is, and where its positions begin
//! h/seen                   what the cluster said of itself when a replica last started
//! l/<replica>/<lane>/<n>   a record
//! m/<replica>/join         a replica came; its value is the newest level that it can read
//! m/<replica>/left         it was found gone
//! r/<replica>              under its lease: a replica that lives
//! w/<replica>/<lane>       under its lease: a lane, whose version is the number of its next record
//! ```
//!
//! The watch covers `h/` to `r/` and so neither chunks nor lanes, which change with every record. Numbers
//! are hexadecimal digits of fixed width: keys of one kind sort by them.

use crate::record::{Position, ReplicaId};

/// What a layout of before this log has under the prefix: sessions, queues, notes, the fence.
const FOREIGN: [&str; 4] = ["s/", "q/", "n/", "fence"];

/// Makes and reads keys.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: String,
}

/// A range of keys, without its end.
pub(super) type Range = (Vec<u8>, Vec<u8>);

/// A key that the watch delivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Named {
    Record {
        author: ReplicaId,
        lane: usize,
        number: u64,
    },
    Join(ReplicaId),
    Left(ReplicaId),
    Replica(ReplicaId),
    History,
    /// Not a key of this layout, or one of no interest.
    Other,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    fn key(&self, rest: impl std::fmt::Display) -> Vec<u8> {
        format!("{}{rest}", self.prefix).into_bytes()
    }

    pub(super) fn floor(&self) -> Vec<u8> {
        self.key("floor")
    }

    pub(super) fn newest(&self) -> Vec<u8> {
        self.key("h")
    }

    pub(super) fn history(&self) -> Vec<u8> {
        self.key("h/history")
    }

    pub(super) fn seen(&self) -> Vec<u8> {
        self.key("h/seen")
    }

    pub(super) fn record(&self, author: ReplicaId, lane: usize, number: u64) -> Vec<u8> {
        self.key(format_args!("l/{author}/{lane:02x}/{number:016x}"))
    }

    pub(super) fn join(&self, replica: ReplicaId) -> Vec<u8> {
        self.key(format_args!("m/{replica}/join"))
    }

    pub(super) fn left(&self, replica: ReplicaId) -> Vec<u8> {
        self.key(format_args!("m/{replica}/left"))
    }

    pub(super) fn replica(&self, replica: ReplicaId) -> Vec<u8> {
        self.key(format_args!("r/{replica}"))
    }

    pub(super) fn lane(&self, replica: ReplicaId, lane: usize) -> Vec<u8> {
        self.key(format_args!("w/{replica}/{lane:02x}"))
    }

    pub(super) fn chunk(&self, floor: Position, which: u64, number: u64) -> Vec<u8> {
        self.key(format_args!("c/{:016x}/{which:016x}/{number:016x}", floor.0))
    }

    /// The chunks of all other checkpoints up to a floor.
    pub(super) fn stale_chunks(&self, floor: Position, which: u64) -> [Range; 2] {
        let (own, own_end) = self.chunks(floor, which, 0);
        [(self.key("c/"), own), (own_end, self.key(format_args!("c/{:016x}0", floor.0)))]
    }

    /// Every chunk of one checkpoint from a number on.
    pub(super) fn chunks(&self, floor: Position, which: u64, from: u64) -> Range {
        (self.chunk(floor, which, from), self.key(format_args!("c/{:016x}/{which:016x}0", floor.0)))
    }

    /// The floor, number of the checkpoint and of the chunk in a key.
    pub(super) fn parse_chunk(&self, key: &[u8]) -> Option<(Position, u64, u64)> {
        let mut parts = self.strip(key)?.strip_prefix("c/")?.split('/');
        let floor = Position(number(parts.next()?)?);
        Some((floor, number(parts.next()?)?, number(parts.next()?)?))
    }

    /// Everything that the watch delivers.
    pub(super) fn watched(&self) -> Range {
        (self.key("h/"), self.key("r0"))
    }

    pub(super) fn records(&self) -> Range {
        (self.key("l/"), self.key("l0"))
    }

    pub(super) fn lane_records(&self, author: ReplicaId, lane: usize) -> Range {
        (
            self.key(format_args!("l/{author}/{lane:02x}/")),
            self.key(format_args!("l/{author}/{lane:02x}0")),
        )
    }

    pub(super) fn members(&self) -> Range {
        (self.key("m/"), self.key("m0"))
    }

    pub(super) fn replicas(&self) -> Range {
        (self.key("r/"), self.key("r0"))
    }

    /// Ranges that are empty unless another layout lies under the prefix.
    pub(super) fn foreign(&self) -> [Range; FOREIGN.len()] {
        FOREIGN.map(|kind| {
            let mut end = self.key(kind);
            // None of them ends in the greatest byte.
            if let Some(last) = end.last_mut() {
                *last = last.saturating_add(1);
            }
            (self.key(kind), end)
        })
    }

    pub(super) fn parse(&self, key: &[u8]) -> Named {
        self.strip(key).and_then(parse).unwrap_or(Named::Other)
    }

    fn strip<'a>(&self, key: &'a [u8]) -> Option<&'a str> {
        std::str::from_utf8(key).ok()?.strip_prefix(&self.prefix)
    }
}

fn parse(key: &str) -> Option<Named> {
    let (kind, rest) = key.split_once('/')?;
    let mut parts = rest.split('/');
    let first = parts.next()?;
    let named = match kind {
        "h" if first == "history" => Named::History,
        "l" => Named::Record {
            author: ReplicaId(number(first)?),
            lane: lane(parts.next()?)?,
            number: number(parts.next()?)?,
        },
        "m" => match parts.next()? {
            "join" => Named::Join(ReplicaId(number(first)?)),
            "left" => Named::Left(ReplicaId(number(first)?)),
            _ => return None,
        },
        "r" => Named::Replica(ReplicaId(number(first)?)),
        _ => return None,
    };
    parts.next().is_none().then_some(named)
}

fn number(digits: &str) -> Option<u64> {
    let good = digits.len() == 16 && !digits.starts_with('+');
    good.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
}

fn lane(digits: &str) -> Option<usize> {
    let good = digits.len() == 2 && !digits.starts_with('+');
    good.then(|| usize::from_str_radix(digits, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: ReplicaId = ReplicaId(0xab);

    #[test]
    fn keys_are_read_as_they_were_made() {
        let keys = Keys::new("lockd/");
        let record = Named::Record { author: ID, lane: 7, number: 18 };
        assert_eq!(keys.parse(&keys.record(ID, 7, 18)), record);
        assert_eq!(keys.parse(&keys.join(ID)), Named::Join(ID));
        assert_eq!(keys.parse(&keys.left(ID)), Named::Left(ID));
        assert_eq!(keys.parse(&keys.replica(ID)), Named::Replica(ID));
        assert_eq!(keys.parse(&keys.history()), Named::History);
        let chunk = keys.chunk(Position(9), 8, 7);
        assert_eq!(keys.parse_chunk(&chunk), Some((Position(9), 8, 7)));
    }

    #[test]
    fn other_keys_are_not_misread() {
        let keys = Keys::new("lockd/");
        for other in [
            &b""[..],
            b"lockd/",
            b"other/r/00000000000000ab",
            b"lockd/r/ab",
            b"lockd/r/default\0bench",
            b"lockd/r/+0000000000000ab",
            b"lockd/r/00000000000000ab/00",
            b"lockd/l/00000000000000ab/07",
            b"lockd/l/00000000000000ab/07/0000000000000012/",
            b"lockd/l/\xff",
            b"lockd/m/00000000000000ab/else",
            b"lockd/h/seen",
        ] {
            assert_eq!(keys.parse(other), Named::Other, "{}", other.escape_ascii());
        }
    }

    #[test]
    fn the_watch_covers_what_it_must_and_nothing_that_changes_with_every_record() {
        let keys = Keys::new("lockd/");
        let (from, to) = keys.watched();
        let covers = |key: Vec<u8>| key >= from && key < to;
        assert!(covers(keys.record(ID, 0, 0)) && covers(keys.join(ID)) && covers(keys.left(ID)));
        assert!(covers(keys.replica(ID)) && covers(keys.history()));
        assert!(!covers(keys.newest()) && !covers(keys.lane(ID, 0)) && !covers(keys.floor()));
        assert!(!covers(keys.chunk(Position(1), 1, 1)));
    }

    #[test]
    fn ranges_hold_their_own_keys_only() {
        let keys = Keys::new("lockd/");
        let within = |(from, to): Range, key: Vec<u8>| key >= from && key < to;
        assert!(within(keys.lane_records(ID, 1), keys.record(ID, 1, u64::MAX)));
        assert!(!within(keys.lane_records(ID, 1), keys.record(ID, 2, 0)));
        let stale = |key: Vec<u8>| {
            keys.stale_chunks(Position(5), 3).into_iter().any(|range| within(range, key.clone()))
        };
        assert!(stale(keys.chunk(Position(4), 9, 9)));
        assert!(stale(keys.chunk(Position(5), 2, 0)) && stale(keys.chunk(Position(5), 4, 0)));
        assert!(!stale(keys.chunk(Position(5), 3, 0)) && !stale(keys.chunk(Position(6), 0, 0)));
        assert!(within(keys.chunks(Position(5), 1, 3), keys.chunk(Position(5), 1, u64::MAX)));
        assert!(!within(keys.chunks(Position(5), 1, 3), keys.chunk(Position(5), 1, 2)));
        assert!(!within(keys.chunks(Position(5), 1, 3), keys.chunk(Position(5), 2, 9)));
    }
}
