//! `lockd elect`: runs a command while leading.

use clap::Args as ClapArgs;
use lockd_client::{Client, Context};

use super::{
    Exit, Globals,
    exit::CommandError,
    run::{self, Held, Needs},
};

/// The flags of `lockd elect`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Waits until it is elected, then runs the command for as long as it leads. Start it anew to
campaign again, as systemd and Kubernetes do by themselves. `lockd observe` and `lockd leader`
show who leads.

Examples:
  lockd elect scheduler -- ./scheduler
  lockd elect scheduler --value 10.0.0.7:8080 -- ./scheduler")]
pub(super) struct Args {
    /// The election's name
    #[arg(value_name = "NAME")]
    name: String,

    /// What others see of the leader, such as its address [default: the host's name]
    #[arg(long, value_name = "TEXT")]
    value: Option<String>,

    #[command(flatten)]
    run: run::CommandArgs,
}

pub(super) async fn run(args: Args, globals: &Globals) -> Result<Exit, CommandError> {
    let host = || rustix::system::uname().nodename().to_string_lossy().into_owned();
    let value = args.value.unwrap_or_else(host);
    let campaign = async |client: &Client| {
        let candidate = client.lock(&args.name).ttl(args.run.ttl).value(value);
        let elected = candidate.acquire(&Context::background()).await;
        elected.map(|guard| Some(Held::Lock(guard))).map_err(CommandError::from)
    };
    let names = std::slice::from_ref(&args.name);
    run::run(&args.run, names, Needs::ACommand, globals, campaign).await
}
