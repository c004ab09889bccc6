//! `lockd leader`: who leads.

use clap::Args as ClapArgs;
use lockd_client::Leader;
use serde_json::{Value, json};

use super::{
    Exit, Globals,
    exit::CommandError,
    output::{self, Format},
};

/// The flags of `lockd leader`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Exits with 1 if nobody leads, and with --is-me if the leader is not on this host.

Examples:
  lockd leader scheduler
  lockd leader scheduler --is-me && ./only-on-the-leader.sh")]
pub(super) struct Args {
    /// The election's name
    #[arg(value_name = "NAME")]
    name: String,

    /// Print nothing, and exit with 0 only if the leader runs on this host
    #[arg(long)]
    is_me: bool,
}

pub(super) async fn run(args: Args, globals: &Globals) -> Result<Exit, CommandError> {
    let client = globals.target.connect().await?;
    let leader = client.election(&args.name).leader().await?;
    if args.is_me {
        let host = rustix::system::uname();
        let here = host.nodename().to_string_lossy();
        let is_me = leader.is_some_and(|leader| leader.host == here);
        return Ok(if is_me { Exit::Success } else { Exit::Code(1) });
    }
    let Some(leader) = leader else {
        output::message(&format!("nobody leads {:?}", args.name));
        return Ok(Exit::Code(1));
    };
    match Format::or_default(globals.output, Format::Json) {
        Format::Table | Format::Wide => output::print(&output::printable(&line(&leader)))?,
        Format::Name => output::print(&output::printable(&value(&leader)))?,
        format @ (Format::Json | Format::Jsonl) => {
            output::print_json(format, &output::document("Leader", to_json(&leader)))?;
        }
    }
    Ok(Exit::Success)
}

pub(super) fn value(leader: &Leader) -> String {
    String::from_utf8_lossy(&leader.value).into_owned()
}

pub(super) fn line(leader: &Leader) -> String {
    let Leader { token, client_name, host, .. } = leader;
    format!("{} (token {token}, {client_name}@{host})", value(leader))
}

pub(super) fn to_json(leader: &Leader) -> Value {
    json!({
        "token": leader.token.to_string(),
        "value": value(leader),
        "client": { "name": leader.client_name, "host": leader.host },
        "sessionId": leader.session_id,
    })
}
