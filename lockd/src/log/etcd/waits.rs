//! What waits until deliveries have come as far as a read has seen.

use std::collections::VecDeque;

use super::item::Item;

/// Reads that wait. Proofs are worth nothing once later ones are there, so the oldest gives way.
const MOST: usize = 64;

/// An item that follows once everything up to a revision has been delivered.
#[derive(Debug)]
pub(super) struct Wait {
    pub(super) revision: i64,
    pub(super) item: Item,
}

/// What waits, in the order of its reads.
#[derive(Debug, Default)]
pub(super) struct Waits(VecDeque<Wait>);

impl Waits {
    pub(super) fn push(&mut self, wait: Wait) {
        if self.0.len() >= MOST {
            let oldest = self.0.iter().position(|wait| matches!(wait.item, Item::Proof { .. }));
            oldest.and_then(|index| self.0.remove(index));
        }
        self.0.push_back(wait);
    }

    /// The next one that deliveries up to `reached` satisfy.
    pub(super) fn pop(&mut self, reached: i64) -> Option<Item> {
        let index = self.0.iter().position(|wait| wait.revision <= reached)?;
        self.0.remove(index).map(|wait| wait.item)
    }
}

#[cfg(test)]
mod tests {
    use lockd_proto::clock::Clock;

    use super::*;
    use crate::{log::etcd::numbers::Numbers, record::ReplicaId};

    #[test]
    fn each_waits_for_its_own_revision_and_barriers_are_never_dropped() {
        let sent = Clock::system().now();
        let barrier = |number| {
            let mut numbers = Numbers::default();
            numbers.push(number);
            Item::Barrier { numbers, sent }
        };
        let mut waits = Waits::default();
        waits.push(Wait { revision: 9, item: barrier(1) });
        waits.push(Wait { revision: 3, item: barrier(2) });
        for _ in 0..2 * MOST {
            waits.push(Wait { revision: 5, item: Item::Proof { life: ReplicaId(1), sent } });
        }
        assert!(waits.0.len() <= MOST);
        assert!(matches!(waits.pop(3), Some(Item::Barrier { .. })));
        assert!(waits.pop(3).is_none());
        while matches!(waits.pop(8), Some(Item::Proof { .. })) {}
        assert!(matches!(waits.pop(9), Some(Item::Barrier { .. })));
    }
}
