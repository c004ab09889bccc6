//! Pauses between retries: growing, capped and with jitter, so that clients that failed
//! together do not come back together. The only module that names the crate `backoff`.

use std::time::Duration;

use backoff::{ExponentialBackoff, ExponentialBackoffBuilder, backoff::Backoff as _};

/// How the pauses grow.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Policy {
    /// The first pause, before jitter.
    pub initial: Duration,
    /// The longest pause, before jitter.
    pub max: Duration,
    /// The share by which a pause may be shorter or longer: 0.2 is ±20 %.
    pub jitter: f64,
    /// How many pauses there are before giving up; `None` where a deadline is the limit.
    pub limit: Option<u32>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            initial: Duration::from_millis(50),
            max: Duration::from_secs(2),
            jitter: 0.5,
            limit: None,
        }
    }
}

/// The pauses of one operation that is being retried.
///
/// ```
/// use lockd_proto::retry::{Policy, Retry};
///
/// let mut retry = Retry::new(Policy { limit: Some(2), ..Policy::default() });
/// while let Some(pause) = retry.next_delay() {
///     // Sleep for `pause`, then try again.
///     assert!(!pause.is_zero());
/// }
/// ```
#[derive(Debug)]
pub struct Retry {
    policy: Policy,
    pauses: ExponentialBackoff,
    taken: u32,
}

impl Retry {
    /// Starts with the first pause.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        let pauses = ExponentialBackoffBuilder::new()
            .with_initial_interval(policy.initial)
            .with_max_interval(policy.max)
            .with_randomization_factor(policy.jitter.clamp(0.0, 1.0))
            .with_multiplier(2.0)
            .with_max_elapsed_time(None)
            .build();
        Self { policy, pauses, taken: 0 }
    }

    /// Even pauses with jitter, for what is done again and again rather than retried.
    #[must_use]
    pub fn steady(interval: Duration, jitter: f64) -> Self {
        Self::new(Policy { initial: interval, max: interval, jitter, limit: None })
    }

    /// How long to pause before the next try; `None` when it is time to give up.
    pub fn next_delay(&mut self) -> Option<Duration> {
        if self.policy.limit.is_some_and(|limit| self.taken >= limit) {
            return None;
        }
        self.taken = self.taken.saturating_add(1);
        self.pauses.next_backoff()
    }

    /// Starts again with the first pause, after a success.
    pub fn reset(&mut self) {
        self.taken = 0;
        self.pauses.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exact(limit: Option<u32>) -> Retry {
        let (initial, max) = (Duration::from_millis(100), Duration::from_millis(300));
        Retry::new(Policy { initial, max, jitter: 0.0, limit })
    }

    fn millis(retry: &mut Retry) -> Option<u128> {
        retry.next_delay().map(|pause| pause.as_millis())
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let mut retry = exact(None);
        let pauses: Vec<_> = (0..4).filter_map(|_| millis(&mut retry)).collect();
        assert_eq!(pauses, [100, 200, 300, 300]);
    }

    #[test]
    fn the_limit_ends_it_and_a_reset_starts_again() {
        let mut retry = exact(Some(1));
        assert_eq!(millis(&mut retry), Some(100));
        assert_eq!(millis(&mut retry), None);
        retry.reset();
        assert_eq!(millis(&mut retry), Some(100));
    }

    #[test]
    fn jitter_stays_within_its_share() {
        let mut retry = Retry::steady(Duration::from_secs(1), 0.1);
        for _ in 0..100 {
            let pause = retry.next_delay().unwrap();
            assert!((899..=1101).contains(&pause.as_millis()), "{pause:?}");
        }
    }
}
