//! Waiting for a condition, in the place of sleeps: as long as it takes, and not longer than stated.

use std::fmt::Debug;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

/// How long a condition rests between two looks at it: short against what tests wait for, and long
/// enough that looking does not load the machine.
const PAUSE: Duration = Duration::from_millis(20);

/// What one look at a condition found: its value, or why it is not there yet.
pub trait Observation {
    /// What [`eventually`] gives back.
    type Value;

    /// The value, or why it is not there yet.
    ///
    /// # Errors
    /// The reason, for the message of a wait that ran out.
    fn observed(self) -> Result<Self::Value, String>;
}

impl Observation for bool {
    type Value = ();

    fn observed(self) -> Result<(), String> {
        self.then_some(()).ok_or_else(|| "not yet".to_owned())
    }
}

impl<T> Observation for Option<T> {
    type Value = T;

    fn observed(self) -> Result<T, String> {
        self.ok_or_else(|| "nothing yet".to_owned())
    }
}

impl<T, E: Debug> Observation for Result<T, E> {
    type Value = T;

    fn observed(self) -> Result<T, String> {
        self.map_err(|error| format!("{error:?}"))
    }
}

/// Looks at `condition` until it holds and gives back its value.
///
/// `what` completes the sentence "within 5s it did not happen that …".
///
/// # Panics
/// When `within` runs out first, also in the middle of a look; the message has what the last complete
/// look found.
#[track_caller]
pub fn eventually<O: Observation>(
    what: &str,
    within: Duration,
    mut condition: impl AsyncFnMut() -> O,
) -> impl Future<Output = O::Value> {
    let caller = std::panic::Location::caller();
    async move {
        let start = Instant::now();
        let deadline = start + within;
        let mut last = "never finished a look".to_owned();
        let mut looks = 0_u32;
        loop {
            match timeout_at(deadline, condition()).await.map(O::observed) {
                Ok(Ok(value)) => return value,
                Ok(Err(reason)) => last = reason,
                Err(_elapsed) => {}
            }
            looks += 1;
            assert!(
                Instant::now() + PAUSE < deadline,
                "{caller}: within {within:?} it did not happen that {what} ({looks} looks; the last: {last})"
            );
            sleep(PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn gives_back_the_value_once_it_is_there() {
        let mut looks = 0;
        let found = eventually("a third look", Duration::from_secs(1), async || {
            looks += 1;
            (looks == 3).then_some("here")
        })
        .await;
        assert_eq!(found, "here");
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "it did not happen that pigs fly (50 looks; the last: \"no wings\")")]
    async fn says_what_did_not_happen_and_why() {
        eventually("pigs fly", Duration::from_secs(1), async || Err::<(), _>("no wings")).await;
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "never finished a look")]
    async fn ends_a_look_that_hangs() {
        eventually("it answers", Duration::from_secs(1), std::future::pending::<bool>).await;
    }
}
