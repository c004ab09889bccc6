//! `lockd`: the daemon and the command line in one binary.

use std::process::ExitCode;

/// Measured against glibc's: see docs/decisions/0008-where-does-the-time-go.md.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    lockd::main(std::env::args_os())
}
