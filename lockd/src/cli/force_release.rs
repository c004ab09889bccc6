//! `lockd force-release`: takes a lock away from its holder.

use clap::Args as ClapArgs;
use lockd_proto::FencingToken;

use super::{
    Exit, Globals,
    exit::CommandError,
    output::{self, Format},
    render,
};

/// The flags of `lockd force-release`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
The holder is told, and stops; but it may be paused, and go on when it wakes up. Only fencing at
the resource keeps it from doing harm then.

Example:
  lockd get orders/42                 shows the token
  lockd force-release orders/42 --token 812 --reason 'stuck since monday'")]
pub(super) struct Args {
    /// The lock's name
    #[arg(value_name = "NAME")]
    name: String,

    /// The token of the entry to remove: nothing happens if the lock has moved on
    #[arg(long, value_name = "TOKEN")]
    token: FencingToken,

    /// Why: sent to the holder, and kept in the daemon's log
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

pub(super) async fn run(args: Args, globals: &Globals) -> Result<Exit, CommandError> {
    let client = globals.target.connect().await?;
    let removed = client.force_release(&args.name, args.token, args.reason).await?;
    match Format::or_default(globals.output, Format::Json) {
        Format::Table | Format::Wide => {
            let who = render::who(&removed);
            let line = format!("{}: released token {} of {who}", args.name, removed.token);
            output::print(&output::printable(&line))?;
        }
        Format::Name => output::print(&args.name)?,
        format @ (Format::Json | Format::Jsonl) => {
            let document = output::document("ForceRelease", render::entry_to_json(&removed));
            output::print_json(format, &document)?;
        }
    }
    Ok(Exit::Success)
}
