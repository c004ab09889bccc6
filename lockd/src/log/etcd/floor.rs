//! The newest floor, in a key of its own: read before anything else.

use std::fmt;

use etcd_client::{Compare, CompareOp, Txn, TxnOp};

use super::{history::History, keys::Keys};
use crate::{log::Floor, record::Position};

/// A floor as it is kept, beside the history that it was written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StoredFloor {
    pub(super) floor: Floor,
    history: u64,
}

impl StoredFloor {
    pub(super) fn new(floor: Floor, history: &History) -> Self {
        Self { floor, history: history.id }
    }

    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let mut words = std::str::from_utf8(text).ok()?.split(' ');
        let mut hex = || u128::from_str_radix(words.next()?, 16).ok();
        let narrow = |number: u128| u64::try_from(number).ok();
        let floor = Floor {
            at: Position(narrow(hex()?)?),
            which: narrow(hex()?)?,
            chunks: narrow(hex()?)?,
            items: narrow(hex()?)?,
            digest: hex()?,
            level: u32::try_from(hex()?).ok()?,
        };
        let history = narrow(hex()?)?;
        words.next().is_none().then_some(Self { floor, history })
    }

    /// Writes the floor unless there is a greater one, or another one at the same place, which does not
    /// concern the transaction that this is part of.
    pub(super) fn raise(&self, keys: &Keys) -> TxnOp {
        // Values compare as bytes, and begin with the place. No compare holds of a key that is absent.
        let at = format!("{:016x}", self.floor.at.0);
        let is_there = Compare::value(keys.floor(), CompareOp::Greater, at);
        let put = TxnOp::put(keys.floor(), self.to_string(), None);
        TxnOp::txn(Txn::new().when([is_there]).or_else([put]))
    }
}

impl fmt::Display for StoredFloor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Floor { at: Position(at), which, chunks, items, digest, level } = self.floor;
        write!(f, "{at:016x} {which:016x} {chunks:x} {items:x} {digest:032x} {level:x} ")?;
        write!(f, "{:016x}", self.history)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_floor_is_read_as_it_was_written_and_sorts_by_its_place() {
        let kept = |at| {
            let floor = Floor {
                at: Position(at),
                which: u64::MAX,
                chunks: 3,
                items: 4,
                digest: u128::MAX - 1,
                level: 2,
            };
            StoredFloor::new(floor, &History::new(9, 1))
        };
        assert_eq!(StoredFloor::parse(kept(77).to_string().as_bytes()), Some(kept(77)));
        assert!(kept(0xff).to_string() < kept(0x100).to_string());
        for text in ["", "1 2 3 4 5 6", "1 2 3 4 5 6 7 8", "1 2 3 4 5 1ffffffff 7", "x 2 3 4 5 6 7"]
        {
            assert_eq!(StoredFloor::parse(text.as_bytes()), None, "{text}");
        }
    }
}
