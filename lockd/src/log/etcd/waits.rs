//! What waits until deliveries have come as far as a read has seen.

use std::collections::VecDeque;

use super::{item::Item, numbers::Numbers};

/// Reads that wait, beyond which they share a place.
const MOST: usize = 64;

/// An item that follows once everything up to a revision has been delivered.
#[derive(Debug)]
pub(super) struct DelayedItem {
    pub(super) revision: i64,
    pub(super) item: Item,
}

/// What waits, in the order of its reads.
#[derive(Debug, Default)]
pub(super) struct Waits(VecDeque<DelayedItem>);

impl Waits {
    pub(super) fn push(&mut self, wait: DelayedItem) {
        if self.0.len() < MOST {
            return self.0.push_back(wait);
        }
        match wait.item {
            // One of many, each of which is followed by another.
            Item::Proof { .. } => {}
            Item::Barrier { numbers, .. } => self.share(wait.revision, numbers),
            _ => self.0.push_back(wait),
        }
    }

    /// Barriers that wait longer than they have to, with others that wait.
    fn share(&mut self, revision: i64, numbers: Numbers) {
        for wait in self.0.iter_mut().rev() {
            if let Item::Barrier { numbers: others, .. } = &mut wait.item {
                others.append(numbers);
                wait.revision = wait.revision.max(revision);
                return;
            }
        }
        // All others are proofs: the oldest gives way.
        let sent = self.0.pop_front().map(|wait| wait.item);
        if let Some(Item::Proof { sent, .. }) = sent {
            self.0.push_back(DelayedItem { revision, item: Item::Barrier { numbers, sent } });
        }
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
        waits.push(DelayedItem { revision: 9, item: barrier(1) });
        waits.push(DelayedItem { revision: 3, item: barrier(2) });
        for _ in 0..2 * MOST {
            waits.push(DelayedItem { revision: 5, item: Item::Proof { life: ReplicaId(1), sent } });
        }
        assert!(waits.0.len() <= MOST);
        assert!(matches!(waits.pop(3), Some(Item::Barrier { .. })));
        assert!(waits.pop(3).is_none());
        while matches!(waits.pop(8), Some(Item::Proof { .. })) {}
        assert!(matches!(waits.pop(9), Some(Item::Barrier { .. })));
        for number in 0..1000 {
            waits.push(DelayedItem {
                revision: 10 + i64::try_from(number).unwrap(),
                item: barrier(number),
            });
        }
        assert!(waits.0.len() <= MOST);
        let mut passed = Vec::new();
        while let Some(Item::Barrier { mut numbers, .. }) = waits.pop(1009) {
            passed.extend(std::iter::from_fn(|| numbers.pop()));
        }
        passed.sort_unstable();
        assert_eq!(passed, (0..1000).collect::<Vec<_>>());
    }
}
