//! States that follow from the same log are equal: applied by another replica, and rebuilt from any
//! checkpoint that was written meanwhile.

use proptest::prelude::*;

use super::{history::*, model::cases, *};
use crate::{
    record::{Floor, Record},
    state::checkpoint::{DamagedState, RestoreError},
};

/// An operation, where it stands, and what became of it.
struct Applied {
    cx: Context,
    operation: Operation,
    outcome: Outcome,
    effects: Vec<Effect>,
    digest: u128,
    bytes: u64,
}

/// A state that is lived through, and what it has written meanwhile.
struct Life {
    state: State,
    log: Vec<Applied>,
    chunks: Vec<Vec<u8>>,
    checkpoints: Vec<(Floor, Vec<Vec<u8>>)>,
    /// Checkpoints that are durable, and whose floors are on their way.
    late: Vec<Floor>,
}

/// What a replica does beside applying operations.
#[derive(Debug, Clone)]
enum Chore {
    Apply(Move),
    Begin,
    GiveUp,
    /// Writes so many chunks of about so many bytes.
    Write(u8, u8),
    /// The oldest floor on its way lands.
    Land,
    /// Operations that stand further apart, as those of other replicas do.
    Skip(u8),
}

fn chores() -> impl Strategy<Value = Vec<Chore>> {
    let chore = prop_oneof![
        40 => moves().prop_map(Chore::Apply),
        2 => Just(Chore::Begin),
        1 => Just(Chore::GiveUp),
        10 => (1..4u8, any::<u8>()).prop_map(|(count, size)| Chore::Write(count, size)),
        2 => Just(Chore::Land),
        2 => (1..99u8).prop_map(Chore::Skip),
    ];
    prop::collection::vec(chore, 15..100)
}

impl Life {
    fn new(state: State) -> Self {
        let (log, chunks) = (vec![], vec![]);
        Self { state, log, chunks, checkpoints: vec![], late: vec![] }
    }

    fn begin() -> Self {
        let mut life = Self::new(State::default());
        for by in [A, B, C, D] {
            life.apply(R1, Operation::Open(Box::new(open(by, 1))));
        }
        life
    }

    fn apply(&mut self, author: ReplicaId, operation: Operation) {
        let cx = Context { at: self.state.at.after(1), author, now: 0 };
        let mut effects = vec![];
        let outcome = self.state.apply(operation.clone(), cx, &mut effects);
        let (digest, bytes) = (self.state.digest, self.state.bytes);
        self.log.push(Applied { cx, operation, outcome, effects, digest, bytes });
    }

    fn do_chore(&mut self, chore: &Chore) {
        match chore {
            // Floors are those that have been written.
            Chore::Apply(Move::Floor) => {}
            Chore::Apply(step) => {
                let (author, operation) = step.operation(&self.state);
                self.apply(author, operation);
            }
            Chore::Begin => {
                self.chunks.clear();
                assert_eq!(self.state.begin_checkpoint(), self.state.at);
            }
            Chore::GiveUp => self.state.give_up_checkpoint(),
            Chore::Write(count, size) => self.write(*count, usize::from(*size)),
            Chore::Land => {
                if !self.late.is_empty() {
                    let floor = self.late.remove(0);
                    self.apply(R1, Operation::Floor(floor));
                }
            }
            Chore::Skip(steps) => self.state.at = self.state.at.after(u64::from(*steps)),
        }
    }

    fn write(&mut self, count: u8, size: usize) {
        for _ in 0..count {
            match self.state.next_chunk(size) {
                Some(chunk) => self.chunks.push(chunk),
                None if self.state.checkpoint.is_some() => {
                    let floor = self.state.finish_checkpoint().expect("it is whole");
                    let floor = floor.expect("it was written");
                    self.checkpoints.push((floor, std::mem::take(&mut self.chunks)));
                    self.late.push(floor);
                }
                None => {}
            }
        }
    }

    /// Applies the operations of another life that are not in this one's state yet, as they come in
    /// records, and finds that the same follows.
    fn follow(&mut self, other: &Self) {
        let floor = self.state.floor;
        // Records up to the floor that have survived are skipped (RULES T2).
        let rest = other.log.iter().filter(|applied| applied.cx.at > floor);
        for applied in rest {
            let operations = vec![applied.operation.clone()];
            let record = Record { digest: None, operations }.encode().expect("a record");
            let Record { mut operations, .. } = Record::decode(&record).expect("the same");
            let operation = operations.pop().expect("one operation");
            let mut effects = vec![];
            let outcome = self.state.apply(operation, applied.cx, &mut effects);
            assert_eq!(outcome, applied.outcome, "{:?}", applied.operation);
            let is_old = |effect: &&Effect| matches!(effect, Effect::Floor(it) if it.at <= floor);
            let expected: Vec<_> = applied.effects.iter().filter(|it| !is_old(it)).collect();
            assert_eq!(effects.iter().collect::<Vec<_>>(), expected, "{:?}", applied.operation);
            assert_eq!(self.state.digest, applied.digest, "{:?}", applied.operation);
            assert_eq!(self.state.bytes, applied.bytes);
        }
        check::state(&self.state);
    }
}

fn restored(floor: &Floor, chunks: &[Vec<u8>]) -> Result<State, RestoreError> {
    let mut restore = Restore::default();
    chunks.iter().try_for_each(|chunk| restore.chunk(chunk))?;
    restore.finish(floor)
}

/// A checkpoint of the state as it is, in one go.
fn checkpoint(state: &mut State) -> (Floor, Vec<Vec<u8>>) {
    state.begin_checkpoint();
    let chunks: Vec<_> = std::iter::from_fn(|| state.next_chunk(100)).collect();
    let floor = state.finish_checkpoint().expect("it is whole");
    (floor.expect("it was begun"), chunks)
}

proptest! {
    #![proptest_config(cases(200))]

    /// RULES J19, J28, T11: nothing decides but the log.
    #[test]
    fn two_replicas_are_equal(history in histories(150)) {
        let mut life = Life::begin();
        for step in history {
            life.do_chore(&Chore::Apply(step));
        }
        Life::new(State::default()).follow(&life);
    }
}

proptest! {
    #![proptest_config(cases(2000))]

    /// RULES T1, T2, T3, T5: rebuilt from any checkpoint, however long it took to write, is as lived
    /// through.
    #[test]
    fn a_state_that_is_rebuilt_is_the_one_that_was_lived_through(chores in chores()) {
        let mut life = Life::begin();
        chores.iter().for_each(|chore| life.do_chore(chore));
        // What is under way ends.
        life.write(200, 50);
        for (floor, chunks) in &life.checkpoints {
            let state = restored(floor, chunks).expect("it is whole");
            prop_assert_eq!((state.at, state.floor), (floor.at, floor.at));
            let mut rebuilt = Life::new(state);
            rebuilt.follow(&life);
            // And so is one that is rebuilt from its checkpoint.
            let (floor, chunks) = checkpoint(&mut rebuilt.state);
            let again = restored(&floor, &chunks).expect("it is whole");
            check::state(&again);
            prop_assert_eq!(again.digest, life.state.digest);
        }
    }
}

/// A state with some of everything.
fn furnished() -> Log {
    let mut log = Log::new();
    let with = |mode, ask| Enqueue { mode, ..ask };
    log.granted(ask(A, 1, "x"));
    log.queued(owned("o", ask(B, 2, "x")));
    log.granted(with(Mode::Once, ask(A, 3, "once")));
    log.update(A, 3, Change::Result("r".into()));
    log.granted(with(Mode::Share(OnLoss::Fail), ask(C, 4, "group")));
    log.granted(Enqueue { lock_delay_ms: 5, ..ask(C, 5, "y") });
    log.queued(with(Mode::Party { parties: 2 }, ask(B, 6, "pair")));
    log.granted(with(Mode::Party { parties: 2 }, ask(D, 7, "pair")));
    log.release(D, 7);
    log.dies(C);
    log.granted(Enqueue { stream: 0, ..ask(D, 8, "z") });
    log.cancel_on(D, 0, 8);
    log
}

/// RULES J17: an accepted restore of a backup ends all sessions, at every replica alike.
#[test]
fn an_accepted_restore_ends_all_sessions() {
    let mut log = furnished();
    let (floor, chunks) = checkpoint(&mut log.state);
    let mut read = restored(&floor, &chunks).expect("it is whole");
    let at = Position(1 << 40);
    for state in [&mut log.state, &mut read] {
        state.restored(at);
        check::state(state);
        assert_eq!((state.counts().sessions, state.position()), (0, at));
        assert!(state.session(session(A)).is_none());
    }
    assert_eq!(read.digest, log.state.digest);
    let left = log.state.locks.keys().cloned().collect::<Vec<_>>();
    assert_eq!(left, [lock("group"), lock("y")], "a group has failed, and a lock-delay runs on");
}

/// RULES T5: what `apply` looks at is in the checkpoint.
#[test]
fn a_checkpoint_has_everything_that_is_looked_at() {
    let mut log = furnished();
    let (floor, chunks) = checkpoint(&mut log.state);
    let state = restored(&floor, &chunks).expect("it is whole");
    check::state(&state);
    assert_eq!(state.digest, log.state.digest);
    assert_eq!(state.bytes, log.state.bytes);
    let mut log = Log { state, at: log.at, effects: vec![] };
    let refused = log.ask(Enqueue { mode: Mode::Once, ..ask(A, 9, "once") });
    assert_eq!(refused, Outcome::Refused(Refusal::Done("r".into())), "results");
    let late = log.ask(Enqueue { stream: 0, ..ask(D, 8, "z") });
    assert_eq!(late, Outcome::Refused(Refusal::Cancelled), "requests that have ended");
    assert_eq!(log.ask(Enqueue { stream: 2, ..ask(A, 9, "z") }), Outcome::Superseded, "streams");
    assert_eq!(log.queue("group"), (vec![(C, 4)], vec![]), "failed groups");
    assert_eq!(log.release(B, 6), Outcome::Leaving);
    assert_eq!(log.heard(), ["b/6 released", "d/7 released"], "parties that have left");
    let (token, since) =
        log.state.delayed().map(|(it, since)| (it.token, since)).last().expect("y");
    log.queued(ask(A, 10, "y"));
    log.apply(Operation::Lapse { lock: lock("y"), token, since });
    assert_eq!(log.heard(), ["a/10 granted"], "delays");
}

/// RULES T1, J20: never a part of a state, nor one of a newer level.
#[test]
fn a_checkpoint_that_is_not_whole_is_refused() {
    let mut log = furnished();
    let (floor, chunks) = checkpoint(&mut log.state);
    let differs = |floor: &Floor, chunks: &[Vec<u8>]| {
        matches!(restored(floor, chunks), Err(RestoreError::Differs { .. }))
    };
    for left_out in 0..chunks.len() {
        let mut chunks = chunks.clone();
        chunks.remove(left_out);
        assert!(differs(&floor, &chunks), "without {left_out}");
    }
    assert!(differs(&floor, &[chunks.clone(), vec![chunks[1].clone()]].concat()), "one twice");
    assert!(differs(&Floor { digest: floor.digest + 1, ..floor }, &chunks));
    assert!(differs(&Floor { items: floor.items + 1, ..floor }, &chunks));
    let newer = restored(&Floor { level: LEVEL + 1, ..floor }, &chunks);
    assert_eq!(newer.err(), Some(RestoreError::Newer { found: LEVEL + 1 }));
    let mut torn = chunks.clone();
    for chunk in &mut torn {
        chunk.pop();
    }
    assert!(matches!(restored(&floor, &torn), Err(RestoreError::Malformed(_))));
}

/// A bit that has flipped is never taken for a state.
#[test]
fn a_checkpoint_that_is_damaged_is_refused() {
    let mut log = furnished();
    let (floor, chunks) = checkpoint(&mut log.state);
    for (number, chunk) in chunks.iter().enumerate() {
        for bit in 0..chunk.len() * 8 {
            let mut chunks = chunks.clone();
            chunks[number][bit / 8] ^= 1 << (bit % 8);
            let state = restored(&floor, &chunks);
            assert!(state.is_err(), "bit {bit} of chunk {number}");
        }
    }
}

/// RULES T3: the greatest floor counts, and what it makes needless may go only then.
#[test]
fn a_floor_counts_where_it_is_applied_and_if_it_is_the_greatest() {
    let mut log = furnished();
    let raise = |log: &mut Log, at| {
        let floor = Floor { at: Position(at), which: at, ..Floor::default() };
        assert_eq!(log.apply(Operation::Floor(floor)), Outcome::Done);
        (log.state.floor.0, log.followed().len())
    };
    assert_eq!(log.state.floor, Position(0));
    assert_eq!(raise(&mut log, 7), (7, 1));
    assert_eq!(log.followed(), ["floor 7"]);
    assert_eq!(raise(&mut log, 5), (7, 0));
    assert_eq!(raise(&mut log, 7), (7, 0));
    assert_eq!(raise(&mut log, 9), (9, 1));
}

/// RULES J29: a bit that flips in memory is in no digest until its item is looked at again.
#[test]
fn an_item_that_has_changed_by_itself_is_found_by_the_next_checkpoint() {
    let mut log = Log::new();
    log.granted(ask(A, 1, "x"));
    log.granted(ask(B, 1, "y"));
    checkpoint(&mut log.state);
    let slot = log.state.slot_of(session(B), request(1)).expect("it is there");
    log.state.entries[slot as usize].lock_delay_ms ^= 1 << 7;
    let at = log.state.begin_checkpoint();
    while log.state.next_chunk(10).is_some() {}
    assert_eq!(log.state.finish_checkpoint(), Err(DamagedState { at }));
    // Also where the item goes meanwhile, and is copied before.
    log.state.begin_scrub();
    log.apply_unchecked(Operation::Close { session: session(B) });
    while log.state.next_chunk(10).is_some() {}
    assert!(log.state.finish_checkpoint().is_err());
}

/// A turn is bounded, though there is little to write among what has gone.
#[test]
fn a_chunk_looks_at_so_much_and_no_more() {
    let mut state = State::default();
    let mut at = Position(0);
    for number in 0..20_000u64 {
        at = at.after(1);
        let mut id = [1; 16];
        id[..8].copy_from_slice(&number.to_le_bytes());
        let open = Open { session: SessionId::from_bytes(id), ..open(A, 0) };
        let cx = Context { at, author: R1, now: 0 };
        state.apply(Operation::Open(Box::new(open)), cx, &mut vec![]);
    }
    let ids: Vec<_> = state.sessions().map(|it| it.id).collect();
    for session in ids {
        at = at.after(1);
        let cx = Context { at, author: R1, now: 0 };
        state.apply(Operation::Close { session }, cx, &mut vec![]);
    }
    let (floor, chunks) = checkpoint(&mut state);
    assert!(chunks.len() > 20_000 / 5000, "{}", chunks.len());
    assert!(chunks.iter().skip(1).all(Vec::is_empty));
    assert_eq!(restored(&floor, &chunks).map(|it| it.counts()), Ok(Counts::default()));
}
