//! `lockd` itself, with each allocation counted, for a test that looks at what stays of many calls.
//!
//! Takes lockd's arguments. A client that connects to the socket that `COUNTED_SOCKET` names reads
//! how many bytes are allocated.

#![allow(clippy::unwrap_used, reason = "what cannot be set up ends the test")]

use std::{io::Write as _, os::unix::net::UnixListener, process::ExitCode};

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<std::alloc::System> = &INSTRUMENTED_SYSTEM;

fn main() -> ExitCode {
    let socket = UnixListener::bind(std::env::var_os("COUNTED_SOCKET").unwrap()).unwrap();
    std::thread::spawn(move || {
        for reader in socket.incoming() {
            let stats = ALLOCATOR.stats();
            let allocated = stats.bytes_allocated.saturating_sub(stats.bytes_deallocated);
            // A reader that has gone is none of its concerns.
            drop(write!(reader.unwrap(), "{allocated}"));
        }
    });
    lockd::main(std::env::args_os())
}
