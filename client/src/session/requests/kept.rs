//! Releases that were answered before they were durable. A power failure at the server may undo
//! them, so they are kept until it cannot, and sent again when the session resumes.

use std::collections::VecDeque;

use lockd_proto::RequestId;

/// The most releases that are kept. With the most requests that a session may have open they are
/// few enough to be named in one `Resume` of 256 KiB.
///
/// The oldest make way: a request that the client does not name as open is taken out when the
/// session resumes, which is what its release would do.
const MAX_KEPT: usize = 4096;

/// Positions of releases in the log, and what they released, in the order of their answers.
#[derive(Debug, Default)]
pub(super) struct Kept(VecDeque<(u64, RequestId)>);

impl Kept {
    /// Keeps a release, unless it is durable already.
    pub(super) fn keep(&mut self, position: u64, id: RequestId) {
        if position == 0 {
            return;
        }
        if self.0.len() >= MAX_KEPT {
            self.0.pop_front();
        }
        self.0.push_back((position, id));
    }

    /// All up to this position is durable.
    pub(super) fn durable(&mut self, position: u64) {
        while self.0.front().is_some_and(|(kept, _)| *kept <= position) {
            self.0.pop_front();
        }
    }

    /// Takes all that is kept.
    pub(super) fn take(&mut self) -> impl Iterator<Item = RequestId> + use<> {
        std::mem::take(&mut self.0).into_iter().map(|(_, id)| id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(positions: impl IntoIterator<Item = u64>) -> Kept {
        let mut kept = Kept::default();
        positions.into_iter().for_each(|position| kept.keep(position, RequestId::random()));
        kept
    }

    #[test]
    fn a_release_is_kept_until_its_place_is_durable() {
        let mut kept = kept([0, 3, 5, 8]);
        assert_eq!(kept.0.len(), 3, "zero is durable already");
        kept.durable(5);
        assert_eq!(kept.take().count(), 1);
        assert_eq!(kept.take().count(), 0);
    }

    #[test]
    fn the_oldest_make_way_where_nothing_ever_is_durable() {
        let kept = kept(1..=5000);
        assert_eq!(kept.0.len(), MAX_KEPT);
        assert_eq!(kept.0.front().map(|(position, _)| *position), Some(5000 - 4095));
    }
}
