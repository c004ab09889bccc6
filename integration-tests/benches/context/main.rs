//! What contexts and fencing are measured by: `make bench-context` prints the table.
//!
//! `make bench-context ONLY=redis` measures one of `postgres`, `redis`, `chain`, `paused`, `group`.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "what cannot be set up ends the benchmark; figures are printed"
)]

mod chain;
mod group;
mod paused;
mod postgres;
mod redis;
mod table;

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    let only = std::env::var("ONLY").unwrap_or_default();
    let mut rows = Vec::new();
    for part in ["postgres", "redis", "chain", "paused", "group"] {
        if !only.is_empty() && only != part {
            continue;
        }
        eprintln!("measuring {part} …");
        rows.extend(match part {
            "postgres" => postgres::rows().await,
            "redis" => redis::rows().await,

            "chain" => chain::rows().await,
            "paused" => paused::rows().await,
            _ => group::rows().await,
        });
    }
    if table::print(&rows) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
