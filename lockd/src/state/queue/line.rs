//! What a queue is kept in.

use std::{collections::VecDeque, slice};

use crate::record::Position;

type Placed<T> = (Position, T);

/// Entries in the order of their positions. They join at the end, and most leave at the head. Most
/// queues have one, which takes no memory of its own.
#[derive(Debug, Clone)]
pub(super) enum Line<T> {
    One(Placed<T>),
    Many(VecDeque<Placed<T>>),
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self::Many(VecDeque::new())
    }
}

impl<T> Line<T> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Many(entries) => entries.len(),
        }
    }

    fn slices(&self) -> (&[Placed<T>], &[Placed<T>]) {
        match self {
            Self::One(entry) => (slice::from_ref(entry), &[]),
            Self::Many(entries) => entries.as_slices(),
        }
    }

    pub(super) fn get(&self, place: usize) -> Option<&Placed<T>> {
        match self {
            Self::One(entry) => (place == 0).then_some(entry),
            Self::Many(entries) => entries.get(place),
        }
    }

    pub(super) fn get_mut(&mut self, place: usize) -> Option<&mut Placed<T>> {
        match self {
            Self::One(entry) => (place == 0).then_some(entry),
            Self::Many(entries) => entries.get_mut(place),
        }
    }

    /// How many entries there are up to a position.
    pub(super) fn up_to(&self, at: Position) -> usize {
        let (first, second) = self.slices();
        let up_to = |entries: &[Placed<T>]| entries.partition_point(|(there, _)| *there <= at);
        match up_to(first) {
            all if all == first.len() => all + up_to(second),
            some => some,
        }
    }

    /// The entries from a place on.
    pub(super) fn from(&self, place: usize) -> impl Iterator<Item = &Placed<T>> {
        let (first, second) = self.slices();
        let rest = place.saturating_sub(first.len());
        let after = |entries: &'_ [Placed<T>], place: usize| place.min(entries.len());
        let (start, middle) = (after(first, place), after(second, rest));
        let first = first.split_at(start).1;
        let second = second.split_at(middle).1;
        first.iter().chain(second)
    }

    pub(super) fn insert(&mut self, place: usize, entry: Placed<T>) {
        match self {
            Self::Many(entries) if entries.capacity() == 0 => *self = Self::One(entry),
            Self::Many(entries) => entries.insert(place, entry),
            Self::One(_) => {
                if let Self::One(there) = std::mem::take(self) {
                    let entries = if place == 0 { [entry, there] } else { [there, entry] };
                    *self = Self::Many(entries.into());
                }
            }
        }
    }

    pub(super) fn remove(&mut self, place: usize) -> Option<Placed<T>> {
        match self {
            Self::Many(entries) => entries.remove(place),
            Self::One(_) if place > 0 => None,
            Self::One(_) => match std::mem::take(self) {
                Self::One(entry) => Some(entry),
                Self::Many(_) => None,
            },
        }
    }

    /// Takes out all entries but those that are to stay.
    pub(super) fn retain(&mut self, mut stays: impl FnMut(&Placed<T>) -> bool) {
        match self {
            Self::Many(entries) => entries.retain(stays),
            Self::One(entry) => {
                if !stays(entry) {
                    *self = Self::default();
                }
            }
        }
    }
}
