use proptest::prelude::*;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use lockd_proto::clock::Clock;

use super::*;
use crate::held::{Held, LockState};

fn start() -> Instant {
    Clock::system().now()
}

fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn a_lease_of_15_s_is_safe_for_14_45_s() {
    let lease = Lease::granted(start(), Duration::from_secs(15));
    let safe = lease.safe_until().saturating_duration_since(lease.sent);
    assert_eq!(safe, millis(14_450));
    assert_eq!(reply_timeout(lease.ttl), millis(1_500));
    assert_eq!(keepalive_interval(lease.ttl), millis(3_000));
}

#[test]
fn the_margin_leaves_most_of_a_tiny_lease() {
    let lease = Lease::granted(start(), millis(500));
    let safe = lease.safe_until().saturating_duration_since(lease.sent);
    assert_eq!(safe, millis(365));
}

#[test]
fn it_is_current_then_late_then_expired() {
    let sent = start();
    let lease = Lease::granted(sent, Duration::from_secs(15));
    for (after, standing) in [
        (0, Standing::Current),
        (4_799, Standing::Current),
        (4_800, Standing::Late),
        (14_449, Standing::Late),
        (14_450, Standing::Expired),
    ] {
        assert_eq!(lease.standing(sent + millis(after)), standing, "{after} ms");
    }
}

#[test]
fn a_renewal_counts_from_its_sending_and_an_older_one_not_at_all() {
    let sent = start();
    let mut lease = Lease::granted(sent, Duration::from_secs(15));
    lease.renew(sent + millis(3_000), Duration::from_secs(15));
    lease.renew(sent + millis(1_000), Duration::from_secs(60));
    assert_eq!(lease.safe_until(), sent + millis(17_450));
}

proptest! {
    /// The server starts its TTL when the message arrives, after it was sent, on a clock that
    /// may run up to 2 % fast.
    #[test]
    fn the_client_stops_before_the_server_can(ttl in 500u64..3_600_000, network in 0u64..60_000) {
        let sent = start();
        let lease = Lease::granted(sent, millis(ttl));
        let server_ends = sent + millis(network) + millis(ttl).mul_f64(1.0 / 1.02);
        prop_assert!(lease.safe_until() < server_ends);
        prop_assert!(lease.safe_until() > sent);
    }

    /// Whatever is renewed and whenever: the next change is what the standing waits for.
    #[test]
    fn the_standing_changes_exactly_when_announced(ttl in 500u64..3_600_000, at in 0u64..4_000_000) {
        let sent = start();
        let lease = Lease::granted(sent, millis(ttl));
        let now = sent + millis(at);
        let standing = lease.standing(now);
        match lease.next_change(now) {
            None => prop_assert_eq!(standing, Standing::Expired),
            Some(next) => {
                prop_assert!(next > now);
                prop_assert_eq!(lease.standing(next - Duration::from_nanos(1)), standing);
                prop_assert!(lease.standing(next) > standing);
            }
        }
    }

    /// Once lost, no renewal brings a lock back; before that, it follows its lease.
    #[test]
    fn lost_is_final(steps in prop::collection::vec((0u64..6_000, any::<bool>()), 1..50)) {
        let mut now = start();
        let mut lease = Lease::granted(now, Duration::from_secs(15));
        let (_published, safe_until) = watch::channel(lease.safe_until());
        let held = Held::new(Clock::system(), safe_until, CancellationToken::new());
        let state = held.watch();
        let mut lost = false;
        for (pause, renewed) in steps {
            now = now + millis(pause);
            lost |= lease.standing(now) == Standing::Expired;
            held.follow(lease.standing(now));
            if renewed {
                lease.renew(now, Duration::from_secs(15));
                held.follow(lease.standing(now));
            }
            let is_lost = matches!(&*state.borrow(), LockState::Lost(_));
            prop_assert_eq!(is_lost, lost);
        }
    }
}

#[test]
fn pauses_between_attempts_shrink_as_the_lease_runs_out() {
    let (sent, usual) = (start(), Duration::from_secs(3));
    let lease = Lease::granted(sent, Duration::from_secs(15));
    for (after, pause) in [
        (0, 1_806),
        // Late, so it is asked more often.
        (4_800, 500),
        (12_050, 300),
        (13_450, 200),
        (14_250, 100),
        (14_440, 20),
        // Nothing is left to be saved.
        (14_450, 3_000),
    ] {
        let at = sent + millis(after);
        assert_eq!(lease.retry_pause(at, usual).as_millis(), pause, "{after} ms");
        assert_eq!(lease.retry_pause(at, millis(10)), millis(10), "a shorter one stays");
    }
}

#[test]
fn an_attempt_leaves_time_for_another_one() {
    let sent = start();
    let lease = Lease::granted(sent, Duration::from_secs(15));
    for (after, timeout) in [(0, 3_000), (10_450, 2_000), (14_250, 250), (14_450, 3_000)] {
        assert_eq!(lease.attempt_timeout(sent + millis(after)), millis(timeout), "{after} ms");
    }
    let shortest = Lease::granted(sent, Duration::from_secs(1));
    assert_eq!(shortest.attempt_timeout(sent), millis(365));
}
