//! What a replica has seen of the others and of the records that are there: pure, no I/O.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::record::ReplicaId;

/// Every so many records of a lane are remembered by their revision.
const STRIDE: u64 = 32;

/// Which replicas there are, and which records.
#[derive(Debug, Default)]
pub(super) struct View {
    /// Joined, and when each was found gone.
    members: BTreeMap<ReplicaId, Presence>,
    /// Whose keys are there.
    present: BTreeSet<ReplicaId>,
    lanes: BTreeMap<(ReplicaId, usize), LaneRecords>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Presence {
    joined: bool,
    left: Option<i64>,
}

/// The records of a lane that may be there.
#[derive(Debug)]
struct LaneRecords {
    first: u64,
    /// Number and revision, each [`STRIDE`] after the one before.
    marks: VecDeque<(u64, i64)>,
    last: (u64, i64),
}

/// Records of one lane that a floor has made needless, the last one included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut {
    pub(super) author: ReplicaId,
    pub(super) lane: usize,
    pub(super) from: u64,
    pub(super) to: u64,
}

impl View {
    pub(super) fn joined(&mut self, replica: ReplicaId) {
        let member = self.members.entry(replica).or_insert(Presence { joined: true, left: None });
        member.joined = true;
    }

    pub(super) fn left(&mut self, replica: ReplicaId, revision: i64) {
        let member = self.members.entry(replica).or_insert(Presence { joined: false, left: None });
        member.left = Some(revision);
    }

    /// A replica's marks were deleted.
    pub(super) fn forget(&mut self, replica: ReplicaId) {
        self.members.remove(&replica);
    }

    pub(super) fn present(&mut self, replica: ReplicaId) {
        self.present.insert(replica);
    }

    /// A replica's key is gone.
    pub(super) fn absent(&mut self, replica: ReplicaId) {
        self.present.remove(&replica);
    }

    /// Those that joined, whose key is gone, and that were not marked as gone yet.
    pub(super) fn missing(&self) -> Vec<ReplicaId> {
        let missing = self.members.iter().filter(|(id, member)| {
            member.joined && member.left.is_none() && !self.present.contains(id)
        });
        missing.map(|(id, _)| *id).collect()
    }

    /// How many replicas that live have a lower name. The first one does what one of them has to do.
    pub(super) fn rank(&self, id: ReplicaId) -> usize {
        self.present.range(..id).count()
    }

    /// Those whose marks are needless: they were found gone at or before a floor.
    pub(super) fn forgotten(&self, floor: i64) -> Vec<ReplicaId> {
        let forgotten = self
            .members
            .iter()
            .filter(|(_, member)| member.left.is_some_and(|revision| revision <= floor));
        forgotten.map(|(id, _)| *id).collect()
    }

    pub(super) fn record(&mut self, at: (ReplicaId, usize), number: u64, revision: i64) {
        let new =
            || LaneRecords { first: number, marks: VecDeque::new(), last: (number, revision) };
        let lane = self.lanes.entry(at).or_insert_with(new);
        lane.last = (number, revision);
        let before = lane.marks.back().map_or(lane.first, |(number, _)| *number);
        if number >= before.saturating_add(STRIDE) {
            lane.marks.push_back((number, revision));
        }
    }

    /// The records up to a floor, but for a few at the end of a lane that goes on. `own` are this
    /// replica's; those of replicas that are gone go with them if it is the first of those that live.
    pub(super) fn cuts(&self, own: ReplicaId, floor: i64) -> Vec<Cut> {
        let first = self.rank(own) == 0;
        let mine = |author: ReplicaId| author == own || (first && !self.present.contains(&author));
        let lanes = self.lanes.iter().filter(|((author, _), _)| mine(*author));
        let cut = |(&(author, lane), it): (&(ReplicaId, usize), &LaneRecords)| {
            let to = it.up_to(floor)?;
            Some(Cut { author, lane, from: it.first, to })
        };
        lanes.filter_map(cut).collect()
    }

    /// The records of a cut were deleted.
    pub(super) fn trimmed(&mut self, cut: Cut) {
        let at = (cut.author, cut.lane);
        let Some(lane) = self.lanes.get_mut(&at) else { return };
        if lane.last.0 <= cut.to {
            self.lanes.remove(&at);
            return;
        }
        lane.first = cut.to.saturating_add(1);
        while lane.marks.front().is_some_and(|(number, _)| *number <= cut.to) {
            lane.marks.pop_front();
        }
    }

    /// Everything is read again.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

impl LaneRecords {
    fn up_to(&self, floor: i64) -> Option<u64> {
        let (last, revision) = self.last;
        if revision <= floor {
            return Some(last);
        }
        let below = self.marks.partition_point(|(_, revision)| *revision <= floor);
        self.marks.get(below.checked_sub(1)?).map(|(number, _)| *number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ReplicaId = ReplicaId(1);
    const B: ReplicaId = ReplicaId(2);

    fn lived() -> View {
        let mut view = View::default();
        for id in [A, B] {
            view.joined(id);
            view.present(id);
        }
        view
    }

    #[test]
    fn a_replica_is_missing_from_its_keys_end_until_it_is_marked() {
        let mut view = lived();
        assert_eq!(view.missing(), []);
        view.absent(A);
        assert_eq!(view.missing(), [A]);
        assert_eq!(view.rank(B), 0);
        view.left(A, 30);
        assert_eq!(view.missing(), []);
        assert_eq!(view.forgotten(29), []);
        assert_eq!(view.forgotten(30), [A]);
    }

    #[test]
    fn nothing_above_the_floor_is_cut_and_at_most_a_stride_below_it_stays() {
        let mut view = lived();
        // Record n at revision 10 n.
        for number in 1..=1000 {
            view.record((A, 0), number, i64::try_from(number).unwrap() * 10);
        }
        for floor in 0..=1001_u64 {
            let cuts = view.cuts(A, i64::try_from(floor).unwrap() * 10 + 5);
            let to = cuts.first().map_or(0, |cut| cut.to);
            assert!(to <= floor, "{to} is cut at {floor}");
            assert!(to + STRIDE + 1 >= floor.min(1000), "{to} is cut at {floor}");
        }
        assert_eq!(view.cuts(A, 10_000), [Cut { author: A, lane: 0, from: 1, to: 1000 }]);
    }

    #[test]
    fn what_was_trimmed_is_not_cut_again() {
        let mut view = lived();
        for number in 1..=100 {
            view.record((A, 0), number, i64::try_from(number).unwrap());
        }
        let cut = view.cuts(A, 70)[0];
        view.trimmed(cut);
        assert_eq!(view.cuts(A, 70), []);
        let rest = view.cuts(A, 100)[0];
        assert_eq!((rest.from, rest.to), (cut.to + 1, 100));
        view.trimmed(rest);
        assert_eq!(view.cuts(A, 1000), []);
    }

    #[test]
    fn a_dead_replicas_records_are_cut_by_the_first_one_that_lives() {
        let mut view = lived();
        view.record((A, 3), 1, 10);
        assert_eq!(view.cuts(B, 10), [], "it is alive and does it itself");
        view.absent(A);
        assert_eq!(view.cuts(B, 10).len(), 1);
        view.present(ReplicaId(0));
        assert_eq!(view.cuts(B, 10), [], "another one comes first");
    }
}
