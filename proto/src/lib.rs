//! The `lockd.v1` gRPC API: generated messages, clients and servers in [`v1`], and the
//! validated values that daemon and client share. The `.proto` files hold the contract.

#![deny(missing_docs)]

#[cfg(feature = "clock")]
pub mod clock;
mod codec;
mod id;
mod metadata;
mod name;
#[cfg(feature = "retry")]
pub mod retry;
mod token;
mod trace_parent;
mod ttl;

pub use id::{IdError, RequestId, SessionId};
pub use metadata::{MAX_METADATA_BYTES, MetadataTooLarge, check_metadata};
pub use name::{LockName, MAX_NAME_BYTES, NameError, Namespace};
pub use token::FencingToken;
pub use trace_parent::{TraceParent, TraceParentError};
pub use ttl::{DEFAULT_TTL, MAX_TTL, Ttl, TtlOutOfRange, TtlRange, safety_margin};

/// The `ErrorInfo` domain of every lockd error.
pub const ERROR_DOMAIN: &str = "lockd";

/// The encoded `FileDescriptorSet` of `lockd.v1`, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/lockd.v1.bin"));

/// The generated `lockd.v1` package.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::missing_errors_doc,
    clippy::too_many_lines,
    clippy::allow_attributes_without_reason,
    reason = "generated code; what users call is documented in the .proto files"
)]
pub mod v1 {
    tonic::include_proto!("lockd.v1");
}

impl v1::Reason {
    /// The stable name as `google.rpc.ErrorInfo` carries it, such as `SESSION_NOT_FOUND`.
    #[must_use]
    pub fn name(self) -> &'static str {
        let full = self.as_str_name();
        full.strip_prefix("REASON_").unwrap_or(full)
    }

    /// The reason with this name, as read from a `google.rpc.ErrorInfo`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::from_str_name(&format!("REASON_{name}"))
    }
}
