//! `lockd ls`: the locks that are held.

use clap::Args as ClapArgs;
use serde_json::json;

use super::{
    Exit, Globals,
    exit::CommandError,
    output::{self, Format},
    render,
};

/// The flags of `lockd ls`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  lockd ls\n  lockd ls orders/ -o wide")]
pub(super) struct Args {
    /// Only locks whose name starts with this
    #[arg(value_name = "PREFIX", default_value = "")]
    prefix: String,
}

pub(super) async fn run(args: Args, globals: &Globals) -> Result<Exit, CommandError> {
    let locks = globals.target.connect().await?.list(args.prefix).await?;
    match Format::or_default(globals.output, Format::Jsonl) {
        format @ (Format::Table | Format::Wide) => {
            if locks.is_empty() {
                output::message("no lock is held");
                return Ok(Exit::Success);
            }
            let wide = format == Format::Wide;
            let columns: &[&str] = if wide { &render::WIDE_COLUMNS } else { &render::COLUMNS };
            let rows = locks.iter().map(|lock| render::row(lock, wide));
            output::print(&output::table(columns, rows))?;
        }
        Format::Name => {
            for lock in locks {
                output::print(&lock.name)?;
            }
        }
        Format::Jsonl => {
            for lock in &locks {
                let document = output::document("Lock", render::to_json(lock));
                output::print_json(Format::Jsonl, &document)?;
            }
        }
        Format::Json => {
            let items: Vec<_> = locks.iter().map(render::to_json).collect();
            let document = output::document("LockList", json!({ "items": items }));
            output::print_json(Format::Json, &document)?;
        }
    }
    Ok(Exit::Success)
}
