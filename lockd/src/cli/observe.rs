//! `lockd observe`: who leads, then every change.

use clap::Args as ClapArgs;
use lockd_client::Observed;
use serde_json::json;

use super::{
    Exit, Globals,
    exit::CommandError,
    leader,
    output::{self, Format},
};

/// The flags of `lockd observe`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Prints who leads, then each change: another leader, another value, nobody; and `unknown` when no
server can say so. Goes on until it is interrupted.

Example:
  lockd observe scheduler -o jsonl")]
pub(super) struct Args {
    /// The election's name
    #[arg(value_name = "NAME")]
    name: String,
}

pub(super) async fn run(args: Args, globals: &Globals) -> Result<Exit, CommandError> {
    let client = globals.target.connect().await?;
    let mut observation = client.election(&args.name).observe();
    let format = Format::or_default(globals.output, Format::Jsonl);
    loop {
        print(format, &observation.next().await?)?;
    }
}

fn print(format: Format, observed: &Observed) -> Result<(), CommandError> {
    match format {
        Format::Table | Format::Wide => {
            let line = match observed {
                Observed::Leader(leader) => leader::line(leader),
                Observed::Nobody => "nobody".to_owned(),
                Observed::Unknown => "unknown".to_owned(),
            };
            output::print(&output::printable(&line))
        }
        Format::Name => match observed {
            Observed::Leader(leader) => output::print(&output::printable(&leader::value(leader))),
            Observed::Nobody | Observed::Unknown => output::print("-"),
        },
        Format::Json | Format::Jsonl => {
            let fields = match observed {
                Observed::Leader(leader) => {
                    json!({ "event": "leader", "leader": leader::to_json(leader) })
                }
                Observed::Nobody => json!({ "event": "nobody" }),
                Observed::Unknown => json!({ "event": "unknown" }),
            };
            output::print_json(Format::Jsonl, &output::document("LeaderEvent", fields))
        }
    }
}
