//! Series with the names of locks, for who wants them. A name is the client's to choose, and a
//! series each would be without a limit: the first ones that are granted have series of their
//! own, all others are one.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use metrics::{Counter, counter, describe_counter, describe_gauge, gauge};

use super::QueueSize;

/// The locks that have series of their own.
pub(super) const MOST: usize = 500;

/// What the label of the others says: no lock has this namespace.
const OTHERS: &str = "";

/// The locks whose names are labels, each with the counter of its grants.
#[derive(Debug)]
pub(super) struct Names {
    known: Mutex<HashMap<(String, String), Counter>>,
    others: Counter,
}

impl Names {
    pub(super) fn new() -> Self {
        describe_counter!(
            "lockd_lock_grants_total",
            "Grants that were told here, by lock; in an election, its leaders"
        );
        describe_gauge!("lockd_lock_holders", "Entries that hold a lock, by lock");
        describe_gauge!("lockd_lock_waiters", "Entries that wait for a lock, by lock");
        Self { known: Mutex::default(), others: grants(OTHERS, OTHERS) }
    }

    /// A lock is granted.
    pub(super) fn granted(&self, namespace: &str, lock: &str) {
        let mut locks = self.locks();
        let key = (namespace.to_owned(), lock.to_owned());
        if let Some(counter) = locks.get(&key) {
            return counter.increment(1);
        }
        if locks.len() == MOST {
            return self.others.increment(1);
        }
        let counter = grants(namespace, lock);
        counter.increment(1);
        locks.insert(key, counter);
    }

    /// The locks that have series of their own.
    pub(super) fn known(&self) -> Vec<(String, String)> {
        self.locks().keys().cloned().collect()
    }

    fn locks(&self) -> MutexGuard<'_, HashMap<(String, String), Counter>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sets what is looked at rather than counted.
#[allow(clippy::cast_precision_loss, reason = "a gauge is a float; these are small")]
pub(super) fn look_at(sizes: &[QueueSize]) {
    for QueueSize { namespace, lock, holders, waiters } in sizes {
        let labels = labels(namespace, lock);
        gauge!("lockd_lock_holders", &labels).set(*holders as f64);
        gauge!("lockd_lock_waiters", &labels).set(*waiters as f64);
    }
}

fn labels(namespace: &str, lock: &str) -> [(&'static str, String); 2] {
    [("namespace", namespace.to_owned()), ("lock", lock.to_owned())]
}

fn grants(namespace: &str, lock: &str) -> Counter {
    counter!("lockd_lock_grants_total", &labels(namespace, lock))
}
