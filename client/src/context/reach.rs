//! How far a context reaches: its end beyond this process, as its propagation says.

use std::time::Duration;

use super::{Cause, Context};
use crate::propagation::{self, Propagation};

#[allow(dead_code, reason = "each layer is a feature of its own")]
impl Context {
    /// Waits for the end of this context as far as it reaches beyond this process: for ever, if
    /// propagation is not on. `layer` names who asks, such as `postgres`.
    pub(crate) async fn reach(&self, layer: &'static str) -> Cause {
        let propagation = self.propagation();
        if propagation == Propagation::Off {
            return std::future::pending().await;
        }
        let cause = self.cancelled().await;
        if propagation == Propagation::On {
            propagation::call_ended();
            return cause;
        }
        propagation::call_would_have_ended();
        tracing::info!(layer, %cause, trace_id = self.trace_id(), "a call goes on beyond its context");
        std::future::pending().await
    }

    /// As [`run`](Self::run), for what reaches beyond this process.
    pub(crate) async fn bound<T>(
        &self,
        layer: &'static str,
        future: impl Future<Output = T>,
    ) -> Result<T, Cause> {
        tokio::select! {
            biased;
            cause = self.reach(layer) => Err(cause),
            output = future => Ok(output),
        }
    }

    /// The [remaining](Self::remaining) time to send beyond this process, if propagation is on.
    pub(crate) fn budget(&self) -> Option<Duration> {
        self.remaining().filter(|_| self.propagation() == Propagation::On)
    }
}

#[cfg(test)]
mod tests {
    use lockd_proto::clock::Clock;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// What becomes of a call of two seconds in a context of one.
    async fn late_call(propagation: Propagation) -> Result<&'static str, Cause> {
        let ctx = Context::background_on(Clock::tokio()).with_propagation(propagation);
        let call = async {
            tokio::time::sleep(2 * SECOND).await;
            "done"
        };
        ctx.with_timeout(SECOND).bound("test", call).await
    }

    #[tokio::test(start_paused = true)]
    async fn only_on_ends_a_call_and_only_observe_counts_that_it_would_have() {
        let before = propagation::counts();
        assert_eq!(late_call(Propagation::On).await, Err(Cause::DeadlineExceeded));
        assert!(propagation::counts().ended > before.ended);
        assert_eq!(late_call(Propagation::Off).await, Ok("done"));
        let before = propagation::counts();
        assert_eq!(late_call(Propagation::Observe).await, Ok("done"));
        assert!(propagation::counts().would_have_ended > before.would_have_ended);
    }

    #[test]
    fn only_on_tells_what_is_left() {
        let ctx = Context::background().with_timeout(SECOND);
        assert!(ctx.with_propagation(Propagation::On).budget() <= Some(SECOND));
        for quiet in [Propagation::Off, Propagation::Observe] {
            assert_eq!(ctx.with_propagation(quiet).budget(), None);
        }
    }
}
