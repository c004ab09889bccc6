//! Which history the cluster holds, and whether it has gone back.
//!
//! A cluster that was restored from a backup repeats revisions, and with them fencing tokens. What can be
//! seen of that is refused: another cluster id, a lower raft term, a lower revision. A restore may show
//! nothing of it to a replica that starts (measured with 3.5.30: the same id, and the same term where there
//! were no elections). So an operator accepts it by a name, whether it was seen or not, and each new name
//! begins an era, whose positions lie above all that were given before.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Mutex, PoisonError},
};

use etcd_client::ResponseHeader;

use crate::{log::is_restore_name, record::Position};

/// Places in one revision: the most operations of a record.
const PLACES: u64 = 1024;

/// How far the positions of a new era lie above those of the one before: 2^30 revisions, of which the
/// restored cluster may have lost as many.
const JUMP: u64 = 1 << 40;

/// The history of a log: kept in a key, and compared by every record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct History {
    pub(super) id: u64,
    /// The cluster that it was in when its last era began.
    pub(super) cluster: u64,
    /// The name by which its last era was accepted.
    pub(super) accepted: Option<String>,
    eras: Vec<Era>,
}

/// What a history without an accepted restore has in the place of its name.
const NONE: &str = "-";

/// From a revision on, positions count from a base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Era {
    from: u64,
    base: u64,
}

impl History {
    pub(super) fn new(id: u64, cluster: u64) -> Self {
        Self { id, cluster, accepted: None, eras: vec![Era { from: 0, base: 0 }] }
    }

    /// Whether a restore can be accepted by this name: one word.
    pub(super) fn is_name(name: &str) -> bool {
        name != NONE && is_restore_name(name)
    }

    /// The history that goes on after a restore was accepted: what follows the cluster as it was seen has
    /// positions greater than any before.
    pub(super) fn accept(&self, name: &str, (id, seen): (u64, Seen)) -> Self {
        let base = self.eras.last().map_or(0, |era| era.base).saturating_add(JUMP);
        let mut eras = self.eras.clone();
        eras.push(Era { from: unsigned(seen.revision).saturating_add(1), base });
        Self { id, cluster: seen.cluster, accepted: Some(name.to_owned()), eras }
    }

    /// The place of the first operation of a revision.
    pub(super) fn position(&self, revision: i64) -> Position {
        let revision = unsigned(revision);
        let era = self.eras.iter().rev().find(|era| era.from <= revision);
        let base = era.map_or(0, |era| era.base);
        Position(revision.saturating_mul(PLACES).saturating_add(base))
    }

    /// The restores that were accepted after a revision: each with the revision from which its era counts,
    /// and the place before all of that era.
    pub(super) fn restored_after(&self, revision: i64) -> VecDeque<(i64, Position)> {
        let later = self.eras.iter().skip(1).filter(|era| era.from > unsigned(revision));
        let from = later.map(|era| i64::try_from(era.from).unwrap_or(i64::MAX));
        from.map(|from| (from, Position(self.position(from).0.saturating_sub(1)))).collect()
    }

    /// The place of the last operation that a revision can have.
    pub(super) fn last_of(position: Position) -> Position {
        Position(position.0 | (PLACES - 1))
    }

    /// The revision that a place lies in.
    pub(super) fn revision(&self, position: Position) -> i64 {
        let first = |era: &Era| era.from.saturating_mul(PLACES).saturating_add(era.base);
        let era = self.eras.iter().rev().find(|era| first(era) <= position.0);
        let base = era.map_or(0, |era| era.base);
        i64::try_from(position.0.saturating_sub(base) / PLACES).unwrap_or(i64::MAX)
    }

    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let mut words = std::str::from_utf8(text).ok()?.split(' ');
        let id = u64::from_str_radix(words.next()?, 16).ok()?;
        let cluster = u64::from_str_radix(words.next()?, 16).ok()?;
        let accepted = words.next().filter(|name| Self::is_name(name) || *name == NONE)?;
        let accepted = (accepted != NONE).then(|| accepted.to_owned());
        let era = |word: &str| {
            let (from, base) = word.split_once('+')?;
            Some(Era { from: from.parse().ok()?, base: base.parse().ok()? })
        };
        let eras: Option<Vec<_>> = words.map(era).collect();
        Some(Self { id, cluster, accepted, eras: eras.filter(|eras| !eras.is_empty())? })
    }
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let accepted = self.accepted.as_deref().unwrap_or(NONE);
        write!(f, "{:016x} {:016x} {accepted}", self.id, self.cluster)?;
        self.eras.iter().try_for_each(|era| write!(f, " {}+{}", era.from, era.base))
    }
}

fn unsigned(revision: i64) -> u64 {
    u64::try_from(revision).unwrap_or_default()
}

/// What a cluster says of itself in the header of an answer that a majority stands behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Seen {
    pub(super) cluster: u64,
    /// Of the last entry that was applied; zero while a member knows none.
    pub(super) term: u64,
    pub(super) revision: i64,
}

impl Seen {
    pub(super) fn of(header: Option<&ResponseHeader>) -> Self {
        header.map_or_else(Self::default, |header| Self {
            cluster: header.cluster_id(),
            term: header.raft_term(),
            revision: header.revision(),
        })
    }

    /// Why an answer that was asked for after this one can't come from the same history.
    pub(super) fn contradicts(&self, later: &Self) -> Option<String> {
        if self.cluster != 0 && later.cluster != self.cluster {
            let (was, is) = (self.cluster, later.cluster);
            return Some(format!("its cluster id is {is:016x} and was {was:016x}"));
        }
        if later.revision < self.revision {
            return Some(format!("its revision is {} and was {}", later.revision, self.revision));
        }
        if later.term != 0 && later.term < self.term {
            return Some(format!("its raft term is {} and was {}", later.term, self.term));
        }
        None
    }

    fn later_of(self, other: Self) -> Self {
        Self {
            cluster: if self.cluster == 0 { other.cluster } else { self.cluster },
            term: self.term.max(other.term),
            revision: self.revision.max(other.revision),
        }
    }

    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let mut words = std::str::from_utf8(text).ok()?.split(' ');
        let cluster = u64::from_str_radix(words.next()?, 16).ok()?;
        let (term, revision) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        words.next().is_none().then_some(Self { cluster, term, revision })
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x} {} {}", self.cluster, self.term, self.revision)
    }
}

/// The most that was seen of the cluster since this replica started.
#[derive(Debug, Default)]
pub(super) struct Watermark(Mutex<Seen>);

impl Watermark {
    /// To be taken before a call is sent, and compared with its answer.
    pub(super) fn now(&self) -> Seen {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn raise(&self, seen: Seen) {
        let mut most = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *most = most.later_of(seen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_of_a_new_era_lie_above_all_before_and_map_back() {
        let first = History::new(1, 7);
        assert_eq!(first.position(3), Position(3 * 1024));
        let second = first.accept("monday", (2, Seen { cluster: 7, term: 1, revision: 100 }));
        // What was written before the restore keeps its positions.
        assert_eq!(second.position(100), first.position(100));
        assert!(second.position(101) > first.position(100 + (1 << 29)));
        for revision in [1, 100, 101, 5000] {
            let place = second.position(revision);
            assert_eq!(second.revision(place), revision);
            assert_eq!(second.revision(History::last_of(place)), revision);
        }
        assert_eq!(History::parse(second.to_string().as_bytes()), Some(second));
    }

    #[test]
    fn what_can_not_be_read_is_no_history() {
        for text in
            ["", "1", "1 2", "1 2 -", "1 2 - x", "1 2 - 3+", "g 2 - 0+0", "1 2 - 0+0 ", "1 2  0+0"]
        {
            assert_eq!(History::parse(text.as_bytes()), None, "{text}");
        }
        assert_eq!(Seen::parse(b"a 1"), None);
        assert_eq!(Seen::parse(b"a 1 2 3"), None);
        let seen = Seen { cluster: 10, term: 2, revision: 30 };
        assert_eq!(Seen::parse(seen.to_string().as_bytes()), Some(seen));
    }

    #[test]
    fn a_history_that_has_gone_back_is_recognised() {
        let seen = Seen { cluster: 1, term: 5, revision: 100 };
        let with = |change: fn(&mut Seen)| {
            let mut later = seen;
            change(&mut later);
            seen.contradicts(&later)
        };
        assert_eq!(with(|_| {}), None);
        assert_eq!(with(|later| later.revision += 1), None);
        // A member that has only just started knows no term yet.
        assert_eq!(with(|later| later.term = 0), None);
        assert!(with(|later| later.term = 4).is_some());
        assert!(with(|later| later.revision = 99).is_some());
        assert!(with(|later| later.cluster = 2).is_some());
        assert_eq!(Seen::default().contradicts(&seen), None);
    }
}
