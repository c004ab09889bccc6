//! A call whose time is taken, so that its error says how long it took of how much.

use lockd_proto::clock::Instant;

use super::{Call, Error, Fault, Spent};
use crate::context::Context;

/// A call that was begun in a context.
#[derive(Debug, Clone)]
#[allow(dead_code, reason = "each layer is a feature of its own")]
pub(crate) struct Timed {
    call: Call,
    ctx: Context,
    started: Instant,
    budget: Option<std::time::Duration>,
}

#[allow(dead_code, reason = "each layer is a feature of its own")]
impl Timed {
    /// Begins a call on what `target` names.
    pub(crate) fn begin(ctx: &Context, operation: &'static str, target: Option<&str>) -> Self {
        let call = Call { target: target.map(str::to_owned), ..Call::new(operation) };
        let call = call.traced(ctx.trace_id());
        Self { call, ctx: ctx.clone(), started: ctx.clock().now(), budget: ctx.remaining() }
    }

    pub(crate) fn failed(&self, fault: Fault) -> Error {
        let elapsed = self.ctx.clock().now().saturating_duration_since(self.started);
        self.call.failed(fault).after(Spent { elapsed, budget: self.budget })
    }
}
