//! `lockd man`: manual pages, made of the same help.

use std::path::PathBuf;

use clap::Args as ClapArgs;

use super::{Exit, exit::CommandError, output};

/// The flags of `lockd man`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  lockd man /usr/local/share/man/man1")]
pub(super) struct Args {
    /// The folder to write to, a page for each command
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

pub(super) fn run(args: &Args, command: clap::Command) -> Result<Exit, CommandError> {
    let unwritable = |error: std::io::Error| {
        CommandError::new(Exit::Config, format!("{}: {error}", args.dir.display()))
    };
    std::fs::create_dir_all(&args.dir).map_err(unwritable)?;
    clap_mangen::generate_to(command, &args.dir).map_err(unwritable)?;
    output::message(&format!("the manual pages are in {}", args.dir.display()));
    Ok(Exit::Success)
}
