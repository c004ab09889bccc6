//! Promises of lockd, one file each, kept against real daemons and real etcd.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "what cannot be set up ends the test; figures are printed"
)]

mod bad_input;
mod bounds;
mod chain;
mod cli;
mod drain;
mod examples;
mod fencing;
mod frames;
mod handoff;
mod introspection;
mod layers;
mod leaks;
mod log;
mod loss;
mod metrics;
mod pods;
mod postgres;
mod primitives;
mod python;
mod redis;
mod resume;
mod sidecar;
mod store_outage;
mod traces;
mod watching;
mod world;
