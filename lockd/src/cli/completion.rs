//! `lockd completion`: a script for a shell.

use clap::Args as ClapArgs;
use clap_complete::Shell;

use super::{Exit, exit::CommandError, output};

/// The flags of `lockd completion`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  lockd completion bash > /etc/bash_completion.d/lockd")]
pub(super) struct Args {
    /// For which shell
    shell: Shell,
}

pub(super) fn run(args: &Args, command: &mut clap::Command) -> Result<Exit, CommandError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, command, "lockd", &mut script);
    output::print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Success)
}
