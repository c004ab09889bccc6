//! Which member is asked: pure, no I/O.

/// What is known of the members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Roster {
    silent: Vec<bool>,
    current: usize,
}

/// A member, by its place in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MemberId(pub(super) usize);

impl Roster {
    pub(super) fn new(members: usize) -> Self {
        Self { silent: vec![false; members], current: 0 }
    }

    /// The member to ask.
    pub(super) fn current(&self) -> MemberId {
        MemberId(self.current)
    }

    /// Whether a member did not answer when it was asked last.
    pub(super) fn is_silent(&self, MemberId(index): MemberId) -> bool {
        self.silent.get(index).copied().unwrap_or(true)
    }

    /// A member did not answer: the next one that does is asked, or, where none does, each in
    /// turn. `true` if that changes anything.
    pub(super) fn failed(&mut self, member: MemberId) -> bool {
        let before = self.clone();
        if let Some(silent) = self.silent.get_mut(member.0) {
            *silent = true;
        }
        if self.current == member.0 {
            let members = self.silent.len();
            let mut others = (1..members).map(|step| (member.0 + step) % members);
            let next = others.clone().find(|other| !self.is_silent(MemberId(*other)));
            self.current = next.or_else(|| others.next()).unwrap_or(self.current);
        }
        *self != before
    }

    /// The member `steps` after the one that is asked.
    pub(super) fn after(&self, steps: usize) -> MemberId {
        MemberId(self.current.wrapping_add(steps) % self.silent.len().max(1))
    }

    /// A member answered. `true` if that changes anything.
    pub(super) fn answered(&mut self, member: MemberId) -> bool {
        if !self.is_silent(member) {
            return false;
        }
        if let Some(silent) = self.silent.get_mut(member.0) {
            *silent = false;
        }
        if self.is_silent(self.current()) {
            self.current = member.0;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_member_is_passed_over_until_it_answers() {
        let mut roster = Roster::new(3);
        roster.failed(MemberId(1));
        assert_eq!(roster.current(), MemberId(0));
        roster.failed(MemberId(0));
        assert_eq!(roster.current(), MemberId(2));
        roster.answered(MemberId(0));
        assert_eq!(roster.current(), MemberId(2), "the one that answers goes on being asked");
        roster.failed(MemberId(2));
        assert_eq!(roster.current(), MemberId(0));
    }

    #[test]
    fn a_failure_of_a_member_that_was_left_already_moves_nothing() {
        let mut roster = Roster::new(3);
        assert!(roster.failed(MemberId(0)));
        assert!(!roster.failed(MemberId(0)));
        assert_eq!(roster.current(), MemberId(1));
    }

    #[test]
    fn where_all_are_silent_each_is_asked_in_turn_and_the_first_to_answer_stays() {
        let mut roster = Roster::new(3);
        let asked = [0, 1, 2, 0, 1].map(|expected| {
            let current = roster.current();
            assert_eq!(current, MemberId(expected));
            roster.failed(current);
            current
        });
        assert_eq!(asked.len(), 5);
        roster.answered(MemberId(1));
        assert_eq!(roster.current(), MemberId(1));
    }

    #[test]
    fn a_single_member_is_always_the_one() {
        let mut roster = Roster::new(1);
        roster.failed(MemberId(0));
        assert_eq!(roster.current(), MemberId(0));
    }
}
