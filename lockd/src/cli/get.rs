//! `lockd get`: one lock, its holder and its queue.

use clap::Args as ClapArgs;
use lockd_client::{EntryInfo, LockInfo};
use serde_json::json;

use super::{
    Exit, Globals,
    exit::CommandError,
    output::{self, Format},
    render,
};

/// The flags of `lockd get`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  lockd get orders/42")]
pub(super) struct Args {
    /// The lock's name
    #[arg(value_name = "NAME")]
    name: String,
}

pub(super) async fn run(args: Args, globals: &Globals) -> Result<Exit, CommandError> {
    let found = globals.target.connect().await?.get(&args.name).await?;
    let format = Format::or_default(globals.output, Format::Json);
    match (&found, format) {
        (Some(lock), Format::Table | Format::Wide) => output::print(&describe(lock))?,
        (None, Format::Table | Format::Wide) => {
            output::message(&format!("{:?} is free: nobody holds it or waits", args.name));
        }
        (_, Format::Name) => output::print(&args.name)?,
        (found, Format::Json | Format::Jsonl) => {
            let fields = found.as_ref().map_or_else(
                || json!({ "namespace": globals.target.namespace, "name": args.name, "holder": null, "holders": [], "waiters": [] }),
                render::to_json,
            );
            output::print_json(format, &output::document("Lock", fields))?;
        }
    }
    Ok(Exit::Success)
}

fn describe(lock: &LockInfo) -> String {
    let queue = lock.holders.iter().map(|holder| ("holds", holder));
    let queue = queue.chain(lock.waiters.iter().map(|waiter| ("waits", waiter)));
    let rows = queue.map(|(state, entry)| row(state, entry));
    let columns = ["STATE", "WHO", "TOKEN", "AGE", "LEASE LEFT", "METADATA", "TRACE"];
    format!("{}\n\n{}", lock.name, output::table(&columns, rows))
}

fn row(state: &str, entry: &EntryInfo) -> Vec<String> {
    let or_dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    vec![
        state.to_owned(),
        render::who(entry),
        entry.token.to_string(),
        render::age(entry.age),
        entry.lease_remaining.map_or("-".to_owned(), render::age),
        or_dash(render::metadata(entry)),
        or_dash(entry.trace_id.clone()),
    ]
}
