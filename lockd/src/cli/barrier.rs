//! `lockd barrier`: meets others, runs a command beside theirs, and leaves with them.

use clap::Args as ClapArgs;
use lockd_client::{Client, Context};

use super::{
    Exit, Globals,
    exit::CommandError,
    run::{self, Held, Needs},
};

/// The flags of `lockd barrier`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Waits until all parties are there, runs the command if there is one, and exits when the
commands of all have ended. If a party dies, is interrupted or loses its lease, the others
exit with 79.

Examples:
  lockd barrier nightly --parties 3                  wait for one another
  lockd barrier bench --parties 3 -- ./load.sh       start together, end together")]
pub(super) struct Args {
    /// The barrier's name
    #[arg(value_name = "NAME")]
    name: String,

    /// How many parties meet
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    parties: u32,

    #[command(flatten)]
    run: run::CommandArgs,
}

pub(super) async fn run(args: Args, globals: &Globals) -> Result<Exit, CommandError> {
    let enter = async |client: &Client| {
        let barrier = client.barrier(&args.name, args.parties).ttl(args.run.ttl);
        let inside = barrier.enter(&Context::background()).await;
        inside.map(|inside| Some(Held::Party(inside))).map_err(CommandError::from)
    };
    let names = std::slice::from_ref(&args.name);
    run::run(&args.run, names, Needs::Nothing, globals, enter).await
}
