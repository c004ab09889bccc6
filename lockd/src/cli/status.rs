//! `lockd status`: how a daemon is doing.

use clap::Args as ClapArgs;
use lockd_client::ServerStatus;
use serde_json::json;

use super::{
    Exit, Globals,
    exit::CommandError,
    output::{self, Format},
    render::age,
};

/// The flags of `lockd status`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "It exits with 69 if the daemon is not ready.")]
pub(super) struct Args {}

pub(super) async fn run(_: Args, globals: &Globals) -> Result<Exit, CommandError> {
    let status = globals.target.connect().await?.status().await?;
    match Format::or_default(globals.output, Format::Json) {
        Format::Table | Format::Wide => {
            output::print(&output::table(&["KEY", "VALUE"], rows(&status)))?
        }
        Format::Name => output::print(&status.replica)?,
        format @ (Format::Json | Format::Jsonl) => {
            let fields = json!({
                "address": status.address,
                "serverVersion": status.version,
                "store": status.store,
                "replica": status.replica,
                "ready": status.ready,
                "notReadyReason": status.not_ready_reason,
                "revision": status.revision.to_string(),
                "viewAgeMs": status.view_age.as_millis().to_string(),
                "sessions": status.sessions.to_string(),
                "attachedSessions": status.attached_sessions.to_string(),
                "locks": status.locks.to_string(),
                "waiters": status.waiters.to_string(),
                "uptimeMs": status.uptime.as_millis().to_string(),
            });
            output::print_json(format, &output::document("Status", fields))?;
        }
    }
    Ok(if status.ready { Exit::Success } else { Exit::Unavailable })
}

fn rows(status: &ServerStatus) -> impl Iterator<Item = Vec<String>> {
    let ready =
        if status.ready { "yes".to_owned() } else { format!("no: {}", status.not_ready_reason) };
    [
        ("address", status.address.clone()),
        ("version", status.version.clone()),
        ("replica", status.replica.clone()),
        ("store", status.store.clone()),
        ("ready", ready),
        ("uptime", age(status.uptime)),
        ("revision", status.revision.to_string()),
        ("view age", age(status.view_age)),
        ("sessions", format!("{} ({} attached here)", status.sessions, status.attached_sessions)),
        ("locks", status.locks.to_string()),
        ("waiters", status.waiters.to_string()),
    ]
    .into_iter()
    .map(|(key, value)| vec![key.to_owned(), value])
}
