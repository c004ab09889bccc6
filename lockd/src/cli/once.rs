//! `lockd once`: runs a command that is to succeed once.

use clap::Args as ClapArgs;
use lockd_client::{Client, Context, Turn};

use super::{
    Exit, Globals,
    exit::CommandError,
    output,
    run::{self, Held, Needs, Output},
};

/// The flags of `lockd once`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
If the command has succeeded before, here or elsewhere, it is skipped, and lockd exits with 0.
If it runs elsewhere at this moment, lockd waits; should it fail there, it runs here.

Examples:
  lockd once migrate-v7 -- ./migrate.sh
  lockd once cluster-id --result -- uuidgen    prints the same id everywhere
  lockd once cluster-id --result               prints what is stored
  lockd once migrate-v7 --forget               lets it be run again")]
pub(super) struct Args {
    /// The name of what is to be done once
    #[arg(value_name = "NAME")]
    name: String,

    /// Store what the command prints, up to 64 KiB, and print it if the command is skipped
    #[arg(long)]
    result: bool,

    /// Forget that it was done
    #[arg(long, conflicts_with_all = ["result", "argv", "command"])]
    forget: bool,

    #[command(flatten)]
    run: run::CommandArgs,
}

pub(super) async fn run(args: Args, globals: &Globals) -> Result<Exit, CommandError> {
    if args.forget {
        return forget(&args.name, globals).await;
    }
    if args.result && !args.run.has_command() {
        return show(&args.name, globals).await;
    }
    let printed = if args.result { Output::Kept } else { Output::Inherited };
    let begin = async |client: &Client| {
        let once = client.once(&args.name).ttl(args.run.ttl);
        match once.begin(&Context::background()).await? {
            Turn::Run(run) => Ok(Some(Held::Once(run, printed))),
            Turn::Done(result) => {
                if args.result {
                    output::write(&result)?;
                }
                Ok(None)
            }
        }
    };
    let names = std::slice::from_ref(&args.name);
    run::run(&args.run, names, Needs::ACommand, globals, begin).await
}

async fn show(name: &str, globals: &Globals) -> Result<Exit, CommandError> {
    let client = globals.target.connect().await?;
    match client.once(name).result().await? {
        Some(result) => output::write(&result).map(|()| Exit::Success),
        None => {
            output::message(&format!("{name:?} has not been done yet"));
            Ok(Exit::Code(1))
        }
    }
}

async fn forget(name: &str, globals: &Globals) -> Result<Exit, CommandError> {
    let client = globals.target.connect().await?;
    if !client.once(name).forget().await? {
        output::message(&format!("{name:?} had not been done"));
    }
    Ok(Exit::Success)
}
