//! The state against a reference that is made to be read, not to be fast. Both apply the same random
//! histories, and say the same of every operation, to its author and to the clients.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::{history::*, reference::Reference, *};

fn outcome(outcome: &Outcome) -> String {
    let failure = |failure: &Failure| match failure {
        Failure::RequestIdReused => "reused",
        Failure::KindMismatch { .. } => "kind",
        Failure::UpgradeRefused(_) => "upgrade",
        Failure::TooManyEntries => "entries",
        Failure::StillWaiting => "waiting",
        Failure::NotHolder => "holder",
        Failure::TokenMismatch => "token",
        Failure::LockNotFound => "lock",
        Failure::ChangeRefused(_) => "change",
    };
    match outcome {
        Outcome::Done => "done".to_owned(),
        Outcome::Attached => "attached".to_owned(),
        Outcome::NoSession => "no session".to_owned(),
        Outcome::SecretMismatch => "secret mismatch".to_owned(),
        Outcome::Superseded => "superseded".to_owned(),
        Outcome::Granted { token } => format!("granted {token}"),
        Outcome::Queued { token } => format!("queued {token}"),
        Outcome::Refused(refusal) => format!("refused {}", refusal.name()),
        Outcome::Failed(it) => format!("failed {}", failure(it)),
        Outcome::Released { is_plain } => format!("released {is_plain}"),
        Outcome::AlreadyLost => "already lost".to_owned(),
        Outcome::Leaving => "leaving".to_owned(),
        Outcome::Cancelled => "cancelled".to_owned(),
        Outcome::Updated => "updated".to_owned(),
        Outcome::Forgotten(was) => format!("forgotten {was}"),
        Outcome::Forced(removed) => format!("forced {}", removed.entry.token),
        Outcome::Asked(holders) => format!("asked {}", holders.len()),
    }
}

/// The state and the reference, side by side.
struct Pair {
    log: Log,
    reference: Reference,
    /// The entries whose clients have heard that they hold.
    granted: BTreeSet<Position>,
}

impl Pair {
    fn new() -> Self {
        let log = Log { state: State::default(), at: Position(0), effects: vec![] };
        let mut pair = Self { log, reference: Reference::default(), granted: BTreeSet::new() };
        for by in [A, B, C, D] {
            pair.apply(R1, Operation::Open(Box::new(open(by, 1))));
        }
        pair
    }

    fn apply(&mut self, author: ReplicaId, operation: Operation) {
        let before = self.shown();
        let ours = self.log.apply_by(author, operation.clone());
        let cx = Context { at: self.log.at, author, now: 0 };
        let theirs = self.reference.apply(&operation, cx);
        assert_eq!(outcome(&ours), theirs, "{operation:?}");
        let (mut ours_heard, mut theirs_heard) = (self.log.heard(), self.reference.news.clone());
        ours_heard.sort_unstable();
        theirs_heard.sort_unstable();
        assert_eq!(ours_heard, theirs_heard, "{operation:?}");
        self.compare();
        self.count_grants(&ours);
        self.look_at_effects(&before);
    }

    /// What the state keeps is what the reference keeps.
    fn compare(&self) {
        let (state, reference) = (&self.log.state, &self.reference);
        assert_eq!(state.entries.len(), reference.entries.len());
        for (_, entry) in &state.entries {
            let place = &reference.entries[&entry.token];
            assert_eq!(
                (entry.mode, entry.stage, entry.asker, entry.is_held()),
                (place.mode, place.stage, place.asker, reference.holds(entry.token)),
            );
        }
        assert_eq!(state.sessions.len(), reference.sessions.len());
        for (id, known) in &reference.sessions {
            let there = state.session(*id).expect("it is known");
            assert_eq!(
                (there.opened, there.epoch, there.author, there.stream),
                (known.opened, known.epoch, known.author, known.stream),
            );
        }
        let results = state.results.iter().map(|(lock, it)| (lock.clone(), it.result.clone()));
        assert_eq!(results.collect::<BTreeMap<_, _>>(), reference.results);
    }

    /// Each entry that holds was granted once, by an outcome or an effect, and no other ever.
    fn count_grants(&mut self, outcome: &Outcome) {
        let heard = self.log.effects.iter().filter_map(|effect| match effect {
            Effect::Entry { token, news: News::Granted { .. }, .. } => Some(*token),
            _ => None,
        });
        let own = match outcome {
            Outcome::Granted { token } if *token == self.log.at => Some(*token),
            _ => None,
        };
        for token in heard.chain(own) {
            let place = self.reference.entries.get(&token).expect("who is gone is granted nothing");
            assert!(self.reference.lives(place), "who is dead is granted nothing");
            assert!(self.granted.insert(token), "each once");
        }
        for (_, entry) in &self.log.state.entries {
            assert_eq!(self.granted.contains(&entry.token), entry.is_held(), "no lost wake-up");
        }
    }

    /// What is shown of each lock, who has which waits, and what is held.
    fn shown(&self) -> Shown {
        let state = &self.log.state;
        let locks = state.locks.iter().map(|(lock, there)| {
            let entries = there.queue.iter().map(|(token, seat)| {
                let entry = &state.entries[seat.slot as usize];
                let value = entry.details.as_ref().map(|it| it.value.clone());
                (token, entry.mode, entry.stage, value, entry.yield_reason().to_owned())
            });
            (lock.clone(), format!("{:?}", entries.collect::<Vec<_>>()))
        });
        let mut waits = BTreeMap::<_, Vec<_>>::new();
        for (owner, token) in state.owners.waits.keys() {
            waits.entry(owner.clone()).or_default().push(*token);
        }
        let held = state.entries.iter().filter(|(_, it)| it.is_held());
        Shown { locks: locks.collect(), waits, held: held.map(|(_, it)| it.token).collect() }
    }

    /// What those hear who look at locks, owners and holders.
    fn look_at_effects(&self, before: &Shown) {
        let now = self.shown();
        let changed: BTreeSet<_> = self.log.changed().into_iter().collect();
        assert_eq!(changed.len(), self.log.changed().len(), "each lock once");
        for lock in before.locks.keys().chain(now.locks.keys()) {
            let same = before.locks.get(lock) == now.locks.get(lock);
            assert!(same || changed.contains(lock.name()), "{lock} has changed");
        }
        for (owner, waits) in &now.waits {
            let blocked = self.log.effects.contains(&Effect::OwnerBlocked(owner.clone()));
            assert!(blocked || before.waits.get(owner) == Some(waits), "{owner} may be stuck");
        }
        let gone = before.held.iter().filter(|it| !self.reference.entries.contains_key(*it));
        let gave_way = |effect: &&Effect| matches!(effect, Effect::GaveWay { .. });
        assert_eq!(self.log.effects.iter().filter(gave_way).count(), gone.count());
    }
}

struct Shown {
    locks: BTreeMap<LockId, String>,
    waits: BTreeMap<Owner, Vec<Position>>,
    held: BTreeSet<Position>,
}

/// So many histories, or as many as the variable `PROPTEST_CASES` says.
pub(in crate::state) fn cases(number: u32) -> ProptestConfig {
    ProptestConfig { cases: number, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn the_state_does_what_the_reference_does(history in histories(120)) {
        let mut pair = Pair::new();
        for step in history {
            let (author, operation) = step.operation(&pair.log.state);
            pair.apply(author, operation);
        }
    }

    /// Whatever has happened: when everybody gives up everything, only what others have to see is left.
    #[test]
    fn nothing_is_left_behind(history in histories(120)) {
        let mut pair = Pair::new();
        for step in history {
            let (author, operation) = step.operation(&pair.log.state);
            pair.apply(author, operation);
        }
        for by in [A, B, C, D] {
            pair.apply(R1, Operation::Close { session: session(by) });
        }
        for (_, entry) in pair.log.state.entries.clone() {
            let stays = match entry.stage {
                Stage::Here => false,
                Stage::Left | Stage::Lost => true,
                Stage::Delayed { since } => {
                    let (lock, token) = (entry.locks.as_slice()[0].clone(), entry.token);
                    pair.apply(R1, Operation::Lapse { lock, token, since });
                    pair.log.state.entry_at(&entry.locks.as_slice()[0], token).is_some()
                }
            };
            prop_assert!(!stays || entry.stage != Stage::Here, "{entry:?}");
        }
        let left = pair.log.state.entries.iter().map(|(_, entry)| entry.stage);
        prop_assert!(left.into_iter().all(|stage| matches!(stage, Stage::Left | Stage::Lost)));
        prop_assert_eq!(pair.log.state.counts().waiters, 0);
    }
}
