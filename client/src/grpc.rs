//! Contexts over gRPC: what is left of a deadline goes out as `grpc-timeout` and the trace as
//! `traceparent`, and comes in as a [`Context`] of the request.
//!
//! ```no_run
//! use lockd_client::{Context, grpc::ContextLayer};
//! use tonic::{Request, Response, Status, transport::Server};
//!
//! # async fn place_order(_: &Context) {}
//! // In a handler: the context ends with the caller's deadline, and when the caller goes away.
//! async fn handler(request: Request<()>) -> Result<Response<()>, Status> {
//!     let ctx = Context::of(&request);
//!     place_order(&ctx).await;
//!     Ok(Response::new(()))
//! }
//! # fn example() {
//! let server = Server::builder().layer(ContextLayer::new());
//! # }
//! ```

mod client;
#[cfg(feature = "grpc")]
mod server;
mod timeout;

pub use client::{DeadlineLayer, DeadlineService};
#[cfg(feature = "grpc")]
pub use server::{ContextLayer, Grpc};

#[cfg(feature = "grpc")]
use crate::context::Context;
#[cfg(feature = "grpc")]
pub use crate::layer::{ContextBody, ContextService};

#[cfg(feature = "grpc")]
impl Context {
    /// The context of a gRPC request, as [`ContextLayer`] has put it there; the
    /// [current](Self::current) one where no such layer is.
    #[must_use]
    pub fn of<T>(request: &tonic::Request<T>) -> Self {
        request.extensions().get::<Self>().cloned().unwrap_or_else(Self::current)
    }
}

#[cfg(test)]
#[cfg(feature = "grpc")]
mod tests;
