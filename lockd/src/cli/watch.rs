//! `lockd watch`: the locks as they are, then as they change.

use clap::Args as ClapArgs;
use lockd_client::LockEvent;
use serde_json::json;

use super::{
    Exit, Globals,
    exit::CommandError,
    output::{self, Format},
    render,
};

/// The flags of `lockd watch`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  lockd watch orders/ -o jsonl")]
pub(super) struct Args {
    /// Only locks whose name starts with this
    #[arg(value_name = "PREFIX", default_value = "")]
    prefix: String,
}

pub(super) async fn run(args: Args, globals: &Globals) -> Result<Exit, CommandError> {
    let mut watch = globals.target.connect().await?.watch(args.prefix).await?;
    let format = Format::or_default(globals.output, Format::Jsonl);
    while let Some(event) = watch.next().await {
        print(format, &event?)?;
    }
    Ok(Exit::Success)
}

fn print(format: Format, event: &LockEvent) -> Result<(), CommandError> {
    match (format, event) {
        (Format::Table | Format::Wide, LockEvent::Changed(lock)) => {
            let held = lock.holder();
            let who = held.map_or_else(|| "nobody".to_owned(), render::who);
            let token = held.map_or(0, |holder| holder.token.get());
            let waiting = lock.waiters.len();
            let line = format!("{}: held by {who}, token {token}, {waiting} waiting", lock.name);
            output::print(&output::printable(&line))
        }
        (Format::Table | Format::Wide, LockEvent::Freed { name, .. }) => {
            output::print(&format!("{name}: free"))
        }
        (Format::Name, LockEvent::Changed(lock)) => output::print(&lock.name),
        (Format::Name, LockEvent::Freed { name, .. }) => output::print(name),
        (Format::Table | Format::Wide | Format::Name, _) => Ok(()),
        (Format::Json | Format::Jsonl, event) => {
            let fields = match event {
                LockEvent::Changed(lock) => {
                    json!({ "event": "changed", "lock": render::to_json(lock) })
                }
                LockEvent::Freed { namespace, name } => {
                    json!({ "event": "freed", "lock": { "namespace": namespace, "name": name } })
                }
                _ => json!({ "event": "snapshot-end" }),
            };
            output::print_json(Format::Jsonl, &output::document("LockEvent", fields))
        }
    }
}
