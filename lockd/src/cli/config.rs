//! `lockd config`: the effective configuration, and where each value comes from.

use clap::Args as ClapArgs;
use serde_json::json;

use super::{
    Exit, Globals,
    exit::CommandError,
    output::{self, Format},
    serve,
};
use crate::config::{Flags, Settings};

/// The flags of `lockd config`: those of `lockd serve`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  lockd config --config /etc/lockd.toml")]
pub(super) struct Args {
    #[command(flatten)]
    flags: Flags,
}

pub(super) fn run(args: &Args, globals: &Globals) -> Result<Exit, CommandError> {
    serve::check_propagation()?;
    let values = Settings::explain(&args.flags)?;
    match Format::or_default(globals.output, Format::Table) {
        Format::Table | Format::Wide => {
            let rows = values.into_iter().map(|value| vec![value.key, value.value, value.source]);
            output::print(&output::table(&["KEY", "VALUE", "FROM"], rows))?;
        }
        Format::Name => {
            for value in values {
                output::print(&value.key)?;
            }
        }
        format @ (Format::Json | Format::Jsonl) => {
            let values = values.into_iter().map(
                |value| json!({ "key": value.key, "value": value.value, "from": value.source }),
            );
            let document = json!({ "values": values.collect::<Vec<_>>() });
            output::print_json(format, &output::document("Config", document))?;
        }
    }
    Ok(Exit::Success)
}
