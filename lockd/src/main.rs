//! `lockd`: the daemon and the command line in one binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    lockd::cli::main(std::env::args_os())
}
