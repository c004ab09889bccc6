//! Random histories: what clients, replicas and operators propose, right and wrong, late and twice.

use proptest::prelude::*;

use super::*;
use crate::record::{Blocked, Floor};

/// A step of a history. What it names is picked from what is there.
#[derive(Debug, Clone)]
pub(super) enum Move {
    Start,
    Open { by: u8, at: bool, stream: Stream, right: bool },
    Attach { by: u8, at: bool, stream: Stream, open: Option<u8> },
    End { by: u8, right: bool },
    Close { by: u8 },
    Ask { by: u8, at: At, number: u8, on: u8, how: How },
    Again { by: u8, at: At, pick: u8, wait: u8 },
    Cancel { by: u8, at: At, pick: u8 },
    Release { by: u8, pick: u8, named: u8 },
    Update { by: u8, pick: u8, what: u8 },
    EndWait { pick: u8, right: bool, why: u8 },
    Deadlock { pick: u8 },
    Lapse { pick: u8, right: bool },
    Force { pick: u8, right: bool },
    Yield { on: u8 },
    Forget { on: u8 },
    Level,
    Floor,
}

/// By which stream something comes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stream {
    Next,
    Same,
    Unnumbered,
}

/// Where and by which stream a session asks.
#[derive(Debug, Clone, Copy)]
pub(super) enum At {
    /// Where it is attached, by its newest stream.
    Home,
    /// By a call that is not numbered, anywhere.
    Call(bool),
    /// As before it moved.
    Late(bool),
}

/// What is unusual of an acquire.
#[derive(Debug, Clone, Copy)]
pub(super) struct How {
    wait: u8,
    delay: bool,
    owner: u8,
    odd: bool,
}

const SESSIONS: [u8; 4] = [A, B, C, D];
const NAMES: [&str; 9] = ["l", "m", "n", "sem", "pair", "three", "group", "fails", "once"];

/// What is asked of which locks: each lock is of one kind, but for the odd mistake.
const CHOICES: [(&[&str], Mode); 18] = [
    (&["l"], Mode::Exclusive),
    (&["l"], Mode::Shared),
    (&["m"], Mode::Exclusive),
    (&["m"], Mode::Shared),
    (&["n"], Mode::Exclusive),
    (&["l", "m"], Mode::Exclusive),
    (&["n", "l"], Mode::Exclusive),
    (&["m", "n", "l"], Mode::Shared),
    (&["sem"], Mode::Permits { count: 1, capacity: 3 }),
    (&["sem"], Mode::Permits { count: 2, capacity: 3 }),
    (&["sem"], Mode::Permits { count: 3, capacity: 3 }),
    (&["pair"], Mode::Party { parties: 2 }),
    (&["three"], Mode::Party { parties: 3 }),
    (&["group"], Mode::Share(OnLoss::Release)),
    (&["fails"], Mode::Share(OnLoss::Fail)),
    (&["once"], Mode::Once),
    (&["pair"], Mode::Party { parties: 2 }),
    (&["once"], Mode::Once),
];

pub(super) fn moves() -> impl Strategy<Value = Move> {
    let by = || (0..4usize).prop_map(|by| SESSIONS[by]);
    let mostly = || prop::bool::weighted(0.8);
    let stream = || prop_oneof![3 => Just(Stream::Next), 1 => Just(Stream::Same), 1 => Just(Stream::Unnumbered)];
    let at = || {
        let other = (any::<bool>(), any::<bool>());
        let other = other.prop_map(|(late, at)| if late { At::Late(at) } else { At::Call(at) });
        prop_oneof![4 => Just(At::Home), 1 => other]
    };
    let how = (0..6u8, any::<bool>(), 0..5u8, prop::bool::weighted(0.05))
        .prop_map(|(wait, delay, owner, odd)| How { wait, delay, owner, odd });
    prop_oneof![
        1 => Just(Move::Start),
        6 => (by(), any::<bool>(), stream(), mostly())
            .prop_map(|(by, at, stream, right)| Move::Open { by, at, stream, right }),
        6 => (by(), any::<bool>(), stream(), any::<Option<u8>>())
            .prop_map(|(by, at, stream, open)| Move::Attach { by, at, stream, open }),
        3 => (by(), mostly()).prop_map(|(by, right)| Move::End { by, right }),
        1 => by().prop_map(|by| Move::Close { by }),
        60 => (by(), at(), 0..9u8, 0..18u8, how)
            .prop_map(|(by, at, number, on, how)| Move::Ask { by, at, number, on, how }),
        8 => (by(), at(), any::<u8>(), 0..6u8)
            .prop_map(|(by, at, pick, wait)| Move::Again { by, at, pick, wait }),
        6 => (by(), at(), any::<u8>()).prop_map(|(by, at, pick)| Move::Cancel { by, at, pick }),
        30 => (by(), any::<u8>(), 0..6u8)
            .prop_map(|(by, pick, named)| Move::Release { by, pick, named }),
        8 => (by(), any::<u8>(), 0..3u8)
            .prop_map(|(by, pick, what)| Move::Update { by, pick, what }),
        8 => (any::<u8>(), mostly(), 0..3u8)
            .prop_map(|(pick, right, why)| Move::EndWait { pick, right, why }),
        6 => any::<u8>().prop_map(|pick| Move::Deadlock { pick }),
        4 => (any::<u8>(), mostly()).prop_map(|(pick, right)| Move::Lapse { pick, right }),
        4 => (any::<u8>(), mostly()).prop_map(|(pick, right)| Move::Force { pick, right }),
        2 => (0..9u8).prop_map(|on| Move::Yield { on }),
        2 => (0..9u8).prop_map(|on| Move::Forget { on }),
        1 => Just(Move::Level),
        1 => Just(Move::Floor),
    ]
}

pub(super) fn histories(len: usize) -> impl Strategy<Value = Vec<Move>> {
    prop::collection::vec(moves(), len / 4..len)
}

/// One of several things, whatever the number.
fn pick<T>(from: Vec<T>, number: u8) -> Option<T> {
    let index = usize::from(number).checked_rem(from.len())?;
    from.into_iter().nth(index)
}

fn replica(second: bool) -> ReplicaId {
    if second { R2 } else { R1 }
}

fn by_token<'a>(entries: impl Iterator<Item = &'a Entry>) -> Vec<&'a Entry> {
    let mut entries: Vec<_> = entries.collect();
    entries.sort_unstable_by_key(|entry| entry.token);
    entries
}

fn all(state: &State) -> Vec<&Entry> {
    by_token(state.entries.iter().map(|(_, entry)| entry))
}

fn first_lock(entry: &Entry) -> LockId {
    entry.locks.as_slice()[0].clone()
}

impl Move {
    /// What is proposed, and by whom.
    pub(super) fn operation(&self, state: &State) -> (ReplicaId, Operation) {
        let home = |by| state.session(session(by)).map_or(R1, |it| it.author);
        match *self {
            Self::Start => (R1, Operation::Start),
            Self::Level => (R1, Operation::Level(1)),
            Self::Floor => {
                let at = Position(state.at.0 / 2);
                (R1, Operation::Floor(Floor { at, ..Floor::default() }))
            }
            Self::Open { by, at, stream, right } => {
                let stream = stream.number(state, by);
                let secret_hash = [if right { by } else { 0 }; 32];
                let open = Open { secret_hash, ..super::open(by, stream) };
                (replica(at), Operation::Open(Box::new(open)))
            }
            Self::Attach { by, at, stream, open } => {
                let stream = stream.number(state, by);
                let named = |mask: u8| (0..8).filter(move |bit| mask >> bit & 1 == 1).map(request);
                let open = open.map(|mask| named(mask).collect());
                (replica(at), Operation::Attach(Attach { session: session(by), stream, open }))
            }
            Self::End { by, right } => {
                let epoch = state.session(session(by)).map_or(Position(1), |it| it.epoch);
                let epoch = if right { epoch } else { Position(epoch.0 - 1) };
                (home(by), Operation::End { session: session(by), epoch })
            }
            Self::Close { by } => (home(by), Operation::Close { session: session(by) }),
            Self::Ask { by, at, number, on, how } => {
                let (author, stream) = at.of(state, by);
                let ask = Enqueue { stream, ..how.ask(by, number, on) };
                (author, Operation::Enqueue(Box::new(ask)))
            }
            Self::Again { by, at, pick, wait } => self::again(state, by, at, (pick, wait)),
            Self::Cancel { by, at, pick } => {
                let (author, stream) = at.of(state, by);
                let request = self::own(state, by, pick).1;
                (author, Operation::Cancel { session: session(by), stream, request })
            }
            Self::Release { by, pick, named } => {
                let (entry, request) = self::own(state, by, pick);
                let entry = entry.or_else(|| self::pick(all(state), pick));
                let named = entry.and_then(|entry| match named {
                    0 => Some((first_lock(entry), entry.token)),
                    1 => Some((first_lock(entry), entry.token.after(1))),
                    _ => None,
                });
                (home(by), Operation::Release(Release { session: session(by), request, named }))
            }
            Self::Update { by, pick, what } => {
                let (entry, request) = self::own(state, by, pick);
                let is_once = entry.is_some_and(|it| it.mode == Mode::Once);
                let change = match what {
                    0 if is_once => Change::Result(format!("{pick}").into()),
                    0 => Change::Downgrade,
                    1 => Change::Value(format!("{pick}").into()),
                    _ => Change::Result(format!("{pick}").into()),
                };
                (home(by), Operation::Update { session: session(by), request, change })
            }
            Self::Yield { on } => {
                let (lock, reason) = (lock(NAMES[usize::from(on)]), "why".into());
                (R1, Operation::Yield { lock, reason })
            }
            Self::Forget { on } => {
                (R1, Operation::Forget { lock: lock(NAMES[usize::from(on) % 9]) })
            }
            Self::EndWait { .. }
            | Self::Deadlock { .. }
            | Self::Lapse { .. }
            | Self::Force { .. } => (R2, self.of_entry(state).unwrap_or(Operation::Level(1))),
        }
    }

    /// What is proposed of some entry.
    fn of_entry(&self, state: &State) -> Option<Operation> {
        match *self {
            Self::EndWait { pick, right, why } => {
                let entry = self::pick(all(state), pick)?;
                let why = [WaitEnd::Expired, WaitEnd::Abandoned, WaitEnd::Withdrawn]
                    [usize::from(why)]
                .clone();
                let claim = if right { entry.asker.claim } else { entry.token };
                let (lock, token) = (first_lock(entry), entry.token);
                Some(Operation::EndWait { lock, token, claim, why })
            }
            Self::Lapse { pick, right } => {
                let delayed = all(state).into_iter().filter_map(|entry| match entry.stage {
                    Stage::Delayed { since } => Some((entry, since)),
                    Stage::Here | Stage::Left | Stage::Lost => None,
                });
                let (entry, since) = self::pick(delayed.collect(), pick)?;
                let since = if right { since } else { since.after(1) };
                Some(Operation::Lapse { lock: first_lock(entry), token: entry.token, since })
            }
            Self::Force { pick, right } => {
                let entry = self::pick(all(state), pick)?;
                let token = if right { entry.token } else { entry.token.after(1) };
                Some(Operation::Force { lock: first_lock(entry), token, reason: "why".into() })
            }
            Self::Deadlock { pick } => deadlock(state, pick),
            _ => None,
        }
    }
}

/// A request of a session: one of those that it has, or another one.
fn own(state: &State, by: u8, pick: u8) -> (Option<&Entry>, RequestId) {
    let own = by_token(state.entries_of(session(by)));
    let entry = self::pick(own, pick).filter(|_| !pick.is_multiple_of(8));
    (entry, entry.map_or(request(pick % 9), |entry| entry.request))
}

/// An acquire that has been made before.
fn again(state: &State, by: u8, at: At, (pick, wait): (u8, u8)) -> (ReplicaId, Operation) {
    let (author, stream) = at.of(state, by);
    let Some(entry) = own(state, by, pick).0 else {
        return (author, Operation::Level(1));
    };
    let wait = How { wait, delay: false, owner: 0, odd: false }.wait();
    let owner = entry.owner().into();
    let ask = Enqueue {
        session: entry.session,
        stream,
        request: entry.request,
        locks: entry.locks.as_slice().to_vec(),
        mode: entry.mode,
        wait,
        lock_delay_ms: entry.lock_delay_ms,
        info: Info { owner, ..Info::default() },
    };
    (author, Operation::Enqueue(Box::new(ask)))
}

/// The walk from a wait of an owner to the next one's, as far as it goes: sometimes it is a cycle.
fn deadlock(state: &State, start: u8) -> Option<Operation> {
    let waits = |owner: &str| state.waits_of(owner).collect::<Vec<_>>();
    let owned = state.entries.iter().map(|(_, it)| it).filter(|it| it.owner_path().is_some());
    let mut at = pick(by_token(owned.filter(|it| !it.is_held())), start)?;
    let mut cycle: Vec<Blocked> = Vec::new();
    while !cycle.iter().any(|it| it.token == at.token) {
        let ahead = at.locks.as_slice().iter().flat_map(|lock| {
            let queue = &state.locks[lock].queue;
            let ahead = queue.iter().filter(|(token, _)| *token < at.token);
            ahead.map(move |(token, seat)| (lock, token, &state.entries[seat.slot as usize]))
        });
        let next = ahead.filter_map(|(lock, by, entry)| {
            let owner = entry.owner_path()?;
            let next = waits(&owner).pop()?;
            Some((lock, by, entry.owner(), next))
        });
        let (lock, by, blocked_by, next) = next.last()?;
        let (token, owner) = (at.token, at.owner().into());
        cycle.push(Blocked { lock: lock.clone(), token, by, owner, blocked_by: blocked_by.into() });
        at = next;
    }
    let start = cycle.iter().position(|it| it.token == at.token)?;
    let cycle = cycle.split_off(start);
    let victim = cycle.iter().max_by_key(|it| it.token)?.clone();
    let entry = state.entry_at(&victim.lock, victim.token)?;
    let of_owners = cycle.iter().filter_map(|it| state.entry_at(&it.lock, it.token)?.owner_path());
    let others = of_owners.flat_map(|owner| waits(&owner)).map(|it| it.token);
    let others = others.filter(|token| !start.is_multiple_of(8) || token.0 % 2 == 0).collect();
    let why = WaitEnd::Deadlock { cycle, others };
    Some(Operation::EndWait {
        lock: victim.lock,
        token: victim.token,
        claim: entry.asker.claim,
        why,
    })
}

impl Stream {
    fn number(self, state: &State, by: u8) -> u64 {
        let newest = state.session(session(by)).map_or(0, |it| it.stream);
        match self {
            Self::Next => newest + 1,
            Self::Same => newest,
            Self::Unnumbered => 0,
        }
    }
}

impl At {
    fn of(self, state: &State, by: u8) -> (ReplicaId, u64) {
        let there = state.session(session(by)).map_or((R1, 1), |it| (it.author, it.stream));
        match self {
            Self::Home => there,
            Self::Call(at) => (replica(at), 0),
            Self::Late(at) => (replica(at), there.1.saturating_sub(u64::from(!at))),
        }
    }
}

impl How {
    fn wait(self) -> Waits {
        match self.wait {
            0 => Waits::Not,
            1 => Waits::Within(5),
            _ => Waits::Forever,
        }
    }

    fn ask(self, by: u8, number: u8, on: u8) -> Enqueue {
        let (names, mode) = CHOICES[usize::from(on)];
        let mode = if self.odd { CHOICES[usize::from(on + 3) % 18].1 } else { mode };
        let lock_delay_ms = if self.delay { 5 } else { 0 };
        let ask = Enqueue { mode, wait: self.wait(), lock_delay_ms, ..ask_all(by, number, names) };
        owned(["", "", "o", "p", "q"][usize::from(self.owner)], ask)
    }
}
