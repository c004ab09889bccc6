//! The one source of time that decides anything: monotonic, and counting the time that the
//! machine is suspended, so that a lease does not outlive a nap.

use std::{
    ops::{Add, Sub},
    time::Duration,
};

/// How long [`Clock::sleep_until`] sleeps at most before it reads the clock again. Timers
/// stand still while the machine is suspended; after it wakes, a sleeper is at most this late.
const LONGEST_NAP: Duration = Duration::from_millis(250);

/// A moment on a [`Clock`]. Only moments of the same clock can be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(Duration);

impl Instant {
    /// How long after `earlier` this is; zero if it is not after it.
    #[must_use]
    pub fn saturating_duration_since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    /// The moment that much later; the last one there is, rather than an overflow.
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;

    /// The moment that much earlier; the clock's first, rather than one before it.
    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(duration))
    }
}

/// Reads the time and sleeps until a moment. Cheap to clone; clones agree with one another.
#[derive(Debug, Clone)]
pub struct Clock(Source);

#[derive(Debug, Clone, Copy)]
enum Source {
    System,
    Tokio { origin: tokio::time::Instant, rate: f64 },
}

impl Clock {
    /// The system's clock: `CLOCK_BOOTTIME` on Linux.
    #[must_use]
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// The runtime's clock, which tests can pause and advance.
    #[must_use]
    pub fn tokio() -> Self {
        Self::tokio_at(1.0)
    }

    /// The runtime's clock as one sees it whose own runs `rate` times as fast.
    #[must_use]
    pub fn tokio_at(rate: f64) -> Self {
        Self(Source::Tokio { origin: tokio::time::Instant::now(), rate })
    }

    /// The time now.
    #[must_use]
    pub fn now(&self) -> Instant {
        match self.0 {
            Source::System => Instant(since_boot()),
            Source::Tokio { origin, rate } => Instant(origin.elapsed().mul_f64(rate)),
        }
    }

    /// Sleeps until a moment, or not at all if it has passed.
    ///
    /// # Cancel safety
    /// Dropping the future ends the sleep; nothing is left behind.
    pub async fn sleep_until(&self, at: Instant) {
        loop {
            let left = at.saturating_duration_since(self.now());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(LONGEST_NAP)).await;
        }
    }
}

fn since_boot() -> Duration {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let id = rustix::time::ClockId::Boottime;
    // Elsewhere the monotonic clock is the best there is; on macOS it counts suspend too.
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let id = rustix::time::ClockId::Monotonic;
    let now = rustix::time::clock_gettime(id);
    Duration::new(
        u64::try_from(now.tv_sec).unwrap_or_default(),
        u32::try_from(now.tv_nsec).unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_time_never_goes_back() {
        let clock = Clock::system();
        let earlier = clock.now();
        assert!(clock.now() >= earlier);
        assert_eq!(
            earlier.saturating_duration_since(earlier + Duration::from_secs(1)),
            Duration::ZERO
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_sleep_lasts_until_its_moment() {
        let clock = Clock::tokio();
        let start = clock.now();
        clock.sleep_until(start + Duration::from_secs(100)).await;
        let slept = clock.now().saturating_duration_since(start);
        assert!(slept >= Duration::from_secs(100), "{slept:?}");
        assert!(slept < Duration::from_millis(100_010), "{slept:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_slow_wakes_late() {
        let (clock, right) = (Clock::tokio_at(0.5), Clock::tokio());
        let start = right.now();
        clock.sleep_until(clock.now() + Duration::from_secs(10)).await;
        let slept = right.now().saturating_duration_since(start);
        assert!(slept >= Duration::from_secs(20), "{slept:?}");
        assert!(slept < Duration::from_millis(20_010), "{slept:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_moment_that_has_passed_is_not_waited_for() {
        let clock = Clock::tokio();
        let start = clock.now();
        clock.sleep_until(start).await;
        assert_eq!(clock.now(), start);
    }
}
