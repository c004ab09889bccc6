//! The search for deadlocks, a bounded piece at a time.
//!
//! An owner goes on if one of its waits does, and a wait goes on if all that is in its way does. From
//! one owner on, everything is collected that it waits for, directly or not. Then what can go on is
//! crossed out, and what waits for that alone, until nothing more can be: what is left is stuck for
//! ever. An owner that is stuck waits behind one that is stuck, and so on: that is a cycle in the end.
//!
//! The state may change between two steps. What is stuck stays as it is until one of its waits ends,
//! so a cycle that stands is found all the same; and one that does not stand any more ends no wait,
//! since that is judged where the end is applied.

use std::collections::{HashMap, HashSet};

use super::{Blockers, Entry, Owner, State, WaitNode};
use crate::record::{Blocked, LockId, Position};

/// The most waits that are collected for one search, and for how many reasons each of them on average.
/// What is larger is given up.
const MAX_WAITS: usize = 16_384;
const MAX_REASONS: usize = 4;

/// A deadlock.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Cycle {
    /// The waits, the first one waiting behind the owner of the second, the last behind that of the first.
    pub waits: Vec<Blocked>,
    /// The token of the youngest of them.
    pub victim: Position,
    /// The lock that it waits for.
    pub lock: LockId,
    /// The other waits of the owners involved, which are stuck as well.
    pub others: Vec<Position>,
}

/// How far a search has come.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Progress {
    /// It has to go on.
    More,
    /// The owner can go on, or waits for too much to be searched.
    Nothing,
    /// The owner is stuck in this cycle, or behind it.
    Found(Cycle),
}

/// A search for a cycle that an owner is stuck in.
#[derive(Debug)]
pub(crate) struct Search {
    /// What has been collected. The owner is the first.
    nodes: Vec<Node>,
    known: HashMap<WaitNode, usize>,
    /// How many reasons to wait have been collected.
    reasons: usize,
    /// The node that is looked at next, and from which entry on.
    next: (usize, Position),
    /// Those that can go on, and whose followers have not been looked at yet.
    free: Vec<usize>,
}

/// A wait, and what it has to do with others.
#[derive(Debug)]
struct Node {
    wait: WaitNode,
    /// What it waits for, and the entry that this is or belongs to.
    ahead: Vec<(usize, Position)>,
    /// What waits for it.
    behind: Vec<usize>,
    /// How much of what it waits for may be stuck.
    stuck_ahead: usize,
    is_stuck: bool,
}

impl Search {
    /// A search that begins at an owner.
    #[must_use]
    pub(crate) fn new(owner: Owner) -> Self {
        let mut search = Self {
            nodes: Vec::new(),
            known: HashMap::new(),
            reasons: 0,
            next: (0, Position::default()),
            free: Vec::new(),
        };
        search.node(WaitNode::Owner(owner));
        search
    }

    /// Goes on, and looks at about so many reasons to wait.
    pub(crate) fn step(&mut self, state: &State, budget: usize) -> Progress {
        let mut left = budget.max(1);
        while left > 0 {
            if self.is_too_large() {
                return Progress::Nothing;
            }
            if self.next.0 < self.nodes.len() {
                left = left.saturating_sub(self.collect(state, left));
            } else if let Some(free) = self.free.pop() {
                left = left.saturating_sub(self.cross_out_behind(free));
            } else {
                return self.cycle(state).map_or(Progress::Nothing, Progress::Found);
            }
        }
        Progress::More
    }

    /// Whether it was given up: there may be a deadlock that it has not found.
    #[must_use]
    pub(crate) fn is_too_large(&self) -> bool {
        self.nodes.len() > MAX_WAITS || self.reasons > MAX_WAITS * MAX_REASONS
    }

    /// Looks at the next wait, or at a part of what it is for, and says how much that was.
    fn collect(&mut self, state: &State, limit: usize) -> usize {
        let (at, after) = self.next;
        let Some(wait) = self.nodes.get(at).map(|node| node.wait.clone()) else {
            return 1;
        };
        let Blockers { waits, more_after } = state.ahead_of_wait(&wait, after, limit);
        let looked_at = if more_after.is_some() { limit } else { waits.len() + 1 };
        self.reasons += waits.len();
        for (wait, by) in waits {
            let ahead = self.node(wait);
            if let Some(node) = self.nodes.get_mut(ahead) {
                node.behind.push(at);
            }
            if let Some(node) = self.nodes.get_mut(at) {
                node.ahead.push((ahead, by));
                node.stuck_ahead += 1;
            }
        }
        self.next = match more_after {
            Some(after) => (at, after),
            None => {
                if self.nodes.get(at).is_some_and(|node| node.ahead.is_empty()) {
                    self.cross_out(at);
                }
                (at + 1, Position::default())
            }
        };
        looked_at
    }

    /// The node of a wait.
    fn node(&mut self, wait: WaitNode) -> usize {
        let nodes = &mut self.nodes;
        *self.known.entry(wait).or_insert_with_key(|wait| {
            let (ahead, behind) = (Vec::new(), Vec::new());
            let wait = wait.clone();
            nodes.push(Node { wait, ahead, behind, stuck_ahead: 0, is_stuck: true });
            nodes.len() - 1
        })
    }

    fn cross_out(&mut self, at: usize) {
        if let Some(node) = self.nodes.get_mut(at).filter(|node| node.is_stuck) {
            node.is_stuck = false;
            self.free.push(at);
        }
    }

    /// Looks at what waits for something that can go on, and says how much that was.
    fn cross_out_behind(&mut self, free: usize) -> usize {
        let behind = self.nodes.get_mut(free).map(|node| std::mem::take(&mut node.behind));
        let behind = behind.unwrap_or_default();
        for at in &behind {
            if let Some(node) = self.nodes.get_mut(*at) {
                node.stuck_ahead -= 1;
                if node.stuck_ahead == 0 || matches!(node.wait, WaitNode::Owner(_)) {
                    self.cross_out(*at);
                }
            }
        }
        behind.len() + 1
    }

    /// The cycle that the owner is stuck in or behind; `None` if it can go on.
    fn cycle(&self, state: &State) -> Option<Cycle> {
        self.nodes.first().filter(|node| node.is_stuck)?;
        let (mut at, mut seen, mut waits) = (0, HashMap::new(), Vec::new());
        while let std::collections::hash_map::Entry::Vacant(vacant) = seen.entry(at) {
            vacant.insert(waits.len());
            let (wait, next) = self.next_owner(at)?;
            waits.push(wait);
            at = next;
        }
        let waits = waits.split_off(*seen.get(&at)?);
        let youngest = waits.iter().max_by_key(|wait| wait.token)?;
        let (victim, lock) = (youngest.token, youngest.lock.clone());
        let named: HashSet<_> = waits.iter().map(|wait| wait.token).collect();
        let owners = waits.iter().filter_map(|wait| state.entry_at(&wait.lock, wait.token));
        let all = owners.filter_map(Entry::owner_path).flat_map(|owner| tokens(state, &owner));
        let others = all.filter(|token| !named.contains(token)).collect();
        Some(Cycle { waits, victim, lock, others })
    }

    /// The youngest wait of an owner that is stuck, and the owner that is stuck ahead of it.
    fn next_owner(&self, owner: usize) -> Option<(Blocked, usize)> {
        let node = self.nodes.get(owner)?;
        let (mut at, token) = *node.ahead.last()?;
        let mut on = None;
        // Each place is ahead of the one before.
        for _ in 0..self.nodes.len() {
            let place = self.nodes.get(at)?;
            if let WaitNode::Place(lock, _) = &place.wait {
                on = Some(lock);
            }
            // The owner that is furthest ahead: the shorter the cycle, the more it says.
            let stuck = place.ahead.iter().filter_map(|(next, by)| {
                self.nodes.get(*next).filter(|node| node.is_stuck).map(|node| (node, *next, *by))
            });
            let is_owner = |node: &Node| matches!(node.wait, WaitNode::Owner(_));
            let (there, next, by) = stuck.min_by_key(|(node, ..)| is_owner(node))?;
            if let (WaitNode::Owner(blocked_by), WaitNode::Owner(owner)) = (&there.wait, &node.wait)
            {
                let (owner, blocked_by) = (name(owner), name(blocked_by));
                return Some((Blocked { lock: on?.clone(), token, by, owner, blocked_by }, next));
            }
            at = next;
        }
        None
    }
}

/// The waits of an owner, by their tokens.
fn tokens(state: &State, owner: &str) -> Vec<Position> {
    state.waits_of(owner).map(|entry| entry.token).collect()
}

/// The name of an owner, without its namespace.
fn name(owner: &str) -> Box<str> {
    owner.split_once('\0').map_or(owner, |(_, name)| name).into()
}

#[cfg(test)]
mod tests;
