//! What holds of every state, whatever was applied.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::super::{
    digest::DigestItem,
    enqueue::slot,
    queue::{self, Seated},
    waits::owner_path,
    *,
};
use crate::record::{Mode, OnLoss, QueueKind};

/// Looks at all of a state, and panics at what must not be.
pub(super) fn state(state: &State) {
    sessions(state);
    entries(state);
    state.locks.iter().for_each(|(lock, there)| self::lock(state, lock, there));
    owners(state);
    sums(state);
}

fn sessions(state: &State) {
    assert_eq!(state.by_id.len(), state.sessions.len());
    for (index, session) in &state.sessions {
        assert_eq!(state.by_id.get(&session.id), Some(&slot(index)));
        assert!(session.opened <= session.epoch && session.epoch <= state.at);
        assert!(session.entries.len() <= MAX_ENTRIES);
        for (request, slot) in &session.entries {
            let entry = &state.entries[*slot as usize];
            assert_eq!((entry.session, entry.request), (session.id, *request));
        }
        let unique: HashSet<_> = session.ended.iter().map(|(request, _)| request).collect();
        assert!(unique.len() == session.ended.len() && unique.len() <= session::ENDED);
    }
}

fn entries(state: &State) {
    let mut requests = BTreeSet::new();
    for (index, entry) in &state.entries {
        let slot = slot(index);
        let session = state.session_of(entry);
        let is_open = session.and_then(|it| it.entries.get(&entry.request)) == Some(&slot);
        match entry.stage {
            Stage::Here => assert!(is_open, "the client of {entry:?} knows of it"),
            Stage::Left => assert_eq!(is_open, session.is_some(), "{entry:?}"),
            Stage::Lost | Stage::Delayed { .. } => assert!(!is_open, "{entry:?}"),
        }
        match (entry.mode, entry.stage) {
            (_, Stage::Here)
            | (Mode::Party { .. }, Stage::Left)
            | (Mode::Share(OnLoss::Fail), Stage::Lost) => {}
            (Mode::Party { .. } | Mode::Share(OnLoss::Fail), Stage::Delayed { .. }) => {
                panic!("{entry:?} is seen by others, and not delayed")
            }
            (_, Stage::Delayed { since }) => {
                assert!(entry.lock_delay_ms > 0 && since <= state.at && session.is_none());
            }
            (_, stage) => panic!("{entry:?} is {stage:?}"),
        }
        if entry.stage != Stage::Here {
            assert!(entry.is_held(), "only what held stays: {entry:?}");
        }
        assert!(entry.token <= state.at && entry.asker.claim >= entry.token, "{entry:?}");
        let held = entry.locks.as_slice().iter().filter(|lock| {
            let queue = &state.locks[*lock].queue;
            assert_eq!(queue.get(entry.token).map(|seat| seat.slot), Some(slot));
            queue.is_held_by(entry.token)
        });
        assert_eq!(held.count(), entry.held_in as usize, "{entry:?} counts where it holds");
        if is_open {
            assert!(requests.insert((entry.session, entry.request)), "one entry a request");
        }
    }
}

fn lock(state: &State, lock: &LockId, there: &Lock) {
    assert!(!there.queue.is_empty(), "a lock without entries is none");
    let seats: Vec<_> = there.queue.iter().collect();
    assert!(seats.is_sorted_by(|one, other| one.0 < other.0), "in the order of tokens");
    let modes: Vec<_> = seats.iter().map(|(_, seat)| seat.mode()).collect();
    let kinds: Vec<_> = modes.iter().map(|mode| mode.kind()).collect();
    assert!(kinds.windows(2).all(|pair| pair[0] == pair[1]), "{lock} is of one kind: {kinds:?}");
    let held = queue::holders(modes.iter().copied());
    assert_eq!(there.queue.held(), held, "{lock} is held by the rule: {modes:?}");
    let taken: u64 = modes[..held].iter().map(|mode| mode.weight()).sum();
    assert!(taken <= kinds[0].capacity());
    for (index, (token, seat)) in seats.iter().enumerate() {
        let entry = &state.entries[seat.slot as usize];
        assert_eq!((entry.token, entry.mode), (*token, seat.mode));
        assert!(entry.locks.as_slice().contains(lock));
        assert_eq!(there.queue.is_held_by(*token), index < held);
        if index < held {
            let by_dead = state.session_of(entry).is_none() && entry.stage == Stage::Here;
            assert!(!by_dead, "a dead session holds {lock}");
        }
    }
    assert_eq!(there.waiting as usize, seats.len() - held);
    let left = seats.iter().filter(|it| state.entries[it.1.slot as usize].stage == Stage::Left);
    assert_eq!(there.left as usize, left.count());
    if let QueueKind::Barrier { parties } = kinds[0] {
        assert!(there.left < parties, "a barrier that all have left is over");
        assert!(there.left == 0 || held == parties as usize);
    }
    let done = state.results.contains_key(lock);
    assert!(!done || kinds[0] != QueueKind::Once, "{lock} is never run again");
}

fn owners(state: &State) {
    let (mut waits, mut places) = (BTreeMap::new(), BTreeSet::new());
    for (index, entry) in &state.entries {
        let first = entry.locks.as_slice().first().filter(|_| !entry.owner().is_empty());
        let lives = |_: &_| {
            matches!(entry.stage, Stage::Here | Stage::Left) && state.session_of(entry).is_some()
        };
        let Some(first) = first.filter(lives) else {
            continue;
        };
        let owner = owner_path(first, entry.owner());
        if !entry.is_held() {
            waits.insert((owner.clone(), entry.token), slot(index));
        }
        for lock in entry.locks.as_slice() {
            places.insert((entry.session, lock.clone(), owner.clone(), entry.token));
        }
    }
    assert_eq!(state.owners.waits, waits);
    assert_eq!(state.owners.places, places);
}

/// What is counted as it changes is what counting anew gives.
fn sums(state: &State) {
    let waiting: usize =
        state.locks.values().map(|there| there.queue.len() - there.queue.held()).sum();
    assert_eq!(state.waiting, waiting);
    let (digest, bytes) = fresh_digest(state);
    assert_eq!(state.digest, digest);
    assert_eq!(state.bytes, bytes);
}

/// The digest and the bytes of all items, from nothing.
pub(super) fn fresh_digest(state: &State) -> (u128, u64) {
    use std::borrow::Cow::Borrowed;
    let sessions = state.sessions.iter().map(|(_, it)| DigestItem::Session(Borrowed(it)));
    let entries = state.entries.iter().map(|(_, it)| DigestItem::Entry(Borrowed(it)));
    let results = state.results.iter().map(|(lock, it)| DigestItem::Result {
        lock: Borrowed(lock),
        at: it.at,
        result: Borrowed(&it.result),
    });
    let meta = std::iter::once(DigestItem::Meta(state.meta()));
    let items = meta.chain(sessions).chain(entries).chain(results);
    items.fold((0u128, 0), |(digest, bytes), item| {
        let encoded = item.encode(Vec::new());
        let hash = twox_hash::XxHash3_128::oneshot(&encoded);
        (digest.wrapping_add(hash), bytes + encoded.len() as u64)
    })
}
