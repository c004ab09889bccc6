//! How many entries are ahead of one, without counting them one by one: entries are counted in
//! blocks as they join, so that in a queue of n it takes some √n steps.

use std::collections::BTreeMap;

use crate::store::Revision;

/// Entries of a block. Small in tests, so that queues have many.
const BLOCK: usize = if cfg!(test) { 3 } else { 256 };

/// How many entries there are from the first revision of each block to the next one's.
#[derive(Debug, Clone, Default)]
pub(super) struct Ranks {
    blocks: BTreeMap<Revision, usize>,
}

impl Ranks {
    /// Counts an entry, and whether it is the last one. Only then may it begin a block beside
    /// others: nobody is to be counted in it who was counted in theirs.
    pub(super) fn insert(&mut self, at: Revision, is_last: bool) {
        if let Some((_, count)) = self.blocks.range_mut(..=at).next_back()
            && (!is_last || *count < BLOCK)
        {
            *count += 1;
        } else {
            self.blocks.insert(at, 1);
        }
    }

    pub(super) fn remove(&mut self, at: Revision) {
        let Some((start, count)) = self.blocks.range_mut(..=at).next_back() else { return };
        *count -= 1;
        if *count == 0 {
            let start = *start;
            self.blocks.remove(&start);
        }
    }

    /// The first revision of an entry's block, and how many are ahead of that.
    pub(super) fn block_of(&self, at: Revision) -> (Revision, usize) {
        let Some((start, _)) = self.blocks.range(..=at).next_back() else { return (at, 0) };
        (*start, self.blocks.range(..start).map(|(_, count)| count).sum())
    }
}
