//! How fast lockd is beside what its users would pick instead: `make bench-peers` measures, prints
//! the tables, and writes `docs/benchmarks.md` and its picture.
//!
//! `ONLY=TEXT` measures the rows whose name has this text (`ONLY=handoff`, `ONLY='64 workers'`,
//! `ONLY=', etcd'`), prints them, and writes nothing. `ROUNDS` and `SECONDS` make it shorter, for a
//! first look.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "what cannot be set up ends the benchmark; figures are printed"
)]

mod clients;
mod command;
mod contenders;
mod elections;
mod fleet;
mod handoff;
mod load;
mod locks;
mod machine;
mod pairs;
mod picture;
mod plan;
mod process;
mod report;
mod services;
mod sessions;
mod subject;
mod targets;

use plan::Plan;

#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() {
    let args: Vec<_> = std::env::args().skip(1).collect();
    // This program is its own clients, each in a process of its own.
    if let [first, job @ ..] = args.as_slice()
        && first == clients::ARGUMENT
    {
        return clients::serve(job).await;
    }
    process::raise_descriptor_limit();
    let plan = Plan::from_env();
    let report = plan.measure().await;
    let text = report.markdown();
    println!("{text}");
    if plan.is_full() {
        report.write(&text).unwrap();
    }
}
