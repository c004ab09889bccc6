//! `lockd yield`: asks the holders of a lock to give it up.

use clap::Args as ClapArgs;
use serde_json::json;

use super::{
    Exit, Globals,
    exit::CommandError,
    output::{self, Format},
    render,
};

/// The flags of `lockd yield`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
The holders are told, and decide. `lockd force-release` takes a lock away.

Example:
  lockd yield orders/42 --reason 'deploy at noon'")]
pub(super) struct Args {
    /// The lock's name
    #[arg(value_name = "NAME")]
    name: String,

    /// Why: sent to the holders
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

pub(super) async fn run(args: Args, globals: &Globals) -> Result<Exit, CommandError> {
    let client = globals.target.connect().await?;
    let asked = client.request_yield(&args.name, args.reason).await?;
    match Format::or_default(globals.output, Format::Json) {
        Format::Table | Format::Wide => {
            for holder in &asked {
                let line = format!("asked {} (token {})", render::who(holder), holder.token);
                output::print(&output::printable(&line))?;
            }
        }
        Format::Name => output::print(&args.name)?,
        format @ (Format::Json | Format::Jsonl) => {
            let holders: Vec<_> = asked.iter().map(render::entry_to_json).collect();
            let document = output::document("YieldRequest", json!({ "holders": holders }));
            output::print_json(format, &document)?;
        }
    }
    Ok(Exit::Success)
}
